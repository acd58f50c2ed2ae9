"""vLLM is killed or hangs, at work or idle: it is noticed, llama.cpp answers, and vLLM comes back."""

from __future__ import annotations

import json
from concurrent.futures import Future, ThreadPoolExecutor

import psutil
import pytest
import requests

from tests.e2e.client import CHAT, DONE, chat, chunks
from tests.e2e.program import until
from tests.vllm.chains import LLAMACPP, VLLM, Chain, Keeper, service, vllm
from tests.vllm.strikes import (
    N_TOKENS,
    Strike,
    kill_engine_core,
    kill_server,
    kill_worker,
    stop_engine_core,
    story,
)


@pytest.mark.parametrize("strike", [kill_engine_core, stop_engine_core])
def test_request_that_was_sent_nothing_is_answered_by_the_next_engine(mortal: Chain, strike: Strike) -> None:
    with ThreadPoolExecutor() as threads, mortal.client.stream(CHAT, story(max_tokens=400)) as (_, running):
        next(running)
        whole: Future[requests.Response] = threads.submit(mortal.client.post, CHAT, story(stream=False))
        until(lambda: mortal.status()["queue"]["running"] == 2, what="both requests running")
        for _ in range(4):  # the second is in vLLM by then, or on its way
            next(running)
        strike(mortal)
        answer = whole.result()
    assert answer.status_code == 200, answer.text
    assert (answer.headers["x-engine"], answer.headers["x-engine-failovers"]) == (LLAMACPP, "1")
    body = answer.json()
    assert body["usage"]["completion_tokens"] == N_TOKENS
    assert body["choices"][0]["finish_reason"] == "length"


def test_answer_of_llamacpp_is_finished_there_when_vllm_is_back(mortal: Chain) -> None:
    kill_server(mortal)
    mortal.serves_with(LLAMACPP)
    with mortal.client.stream(CHAT, story(max_tokens=1900)) as (response, running):
        assert response.headers["x-engine"] == LLAMACPP
        first = next(running)
        mortal.serves_with(VLLM)
        assert mortal.client.post(CHAT, chat()).headers["x-engine"] == VLLM
        found = chunks([first, *running])
    assert found[-1]["choices"][0]["finish_reason"] == "length"
    assert not any("x_engine" in chunk for chunk in found)


def test_nothing_of_vllm_outlives_a_killed_gateway(keeper: Keeper) -> None:
    chain = keeper.chain("orphans", service(vllm()))
    chain.serves_with(VLLM)
    below = chain.program.descendants()
    assert set(chain.processes_of_vllm().values()) < set(below)
    chain.program.process.kill()
    chain.program.ends()
    _, left = psutil.wait_procs(below, timeout=20)
    assert not left


@pytest.mark.parametrize(
    ("strike", "reason", "named"),
    [
        (kill_engine_core, "crashed", "engine process"),
        (kill_worker, "crashed", "engine process"),
        (kill_server, "crashed", "SIGKILL"),
        (stop_engine_core, "unhealthy", "hangs"),
    ],
)
def test_idle_engine_that_dies_is_noticed_and_comes_back(
    mortal: Chain, strike: Strike, reason: str, named: str
) -> None:
    n_starts = mortal.engine()["starts"]
    processes = mortal.processes_of_vllm()
    strike(mortal)
    mortal.serves_with(LLAMACPP)
    failure = mortal.engine()["last_failure"]
    assert failure["reason"] == reason
    assert named in failure["detail"]
    assert mortal.status()["vllm_ready"] is False
    assert mortal.client.get("/").json()["vllm_ready"] is False
    health = mortal.client.get("/health").json()
    assert (health["status"], health["vllm_server"]) == ("healthy", "unavailable")
    answer = mortal.client.post(CHAT, chat("What is the capital of France?", max_tokens=20))
    assert answer.headers["x-engine"] == LLAMACPP
    assert "Paris" in answer.json()["choices"][0]["message"]["content"]
    _, left = psutil.wait_procs(list(processes.values()), timeout=20)
    assert not left
    mortal.serves_with(VLLM)
    assert mortal.engine()["starts"] == n_starts + 1
    assert mortal.client.post(CHAT, chat()).headers["x-engine"] == VLLM


def test_death_is_told_without_a_word_of_what_was_asked(mortal: Chain) -> None:
    secret = "Zanzibarra"
    with mortal.client.stream(CHAT, chat(secret, max_tokens=200, ignore_eos=True, stream=True)) as (_, running):
        next(running)
        kill_engine_core(mortal)
        *_, last = running
    assert last == DONE
    assert secret not in mortal.program.printed()
    assert secret not in json.dumps(mortal.status())
