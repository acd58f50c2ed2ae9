"""The real program over two real workers: the one that serves is killed, and nobody loses a word."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.backends.llamacpp.reference import open_reference
from tests.e2e.client import CHAT, DONE, Client, Json, chat
from tests.e2e.program import Program, serving, until

# Six streams join and leave a batch: each of two logits moves by up to 0.32 with its shape. A word that is lost or
# doubled stands out by several.
MAX_GAP = 0.65
N_STREAMS, N_TOKENS, N_BEFORE = 6, 60, 12
CONFIG = """
[services.demo]
standby = "{standby}"
max_concurrent = 6

[services.demo.failover]
failback = false

[[services.demo.engines]]
kind = "llamacpp"
name = "first"
n_ctx_total = 4096

[[services.demo.engines]]
kind = "llamacpp"
name = "second"
n_ctx_total = 4096
"""
SYSTEM = "You count."
TASK = "Count upwards from {first}, one number after the other, separated by commas: {first},"
PROMPT = f"<|im_start|>system\n{SYSTEM}<|im_end|>\n<|im_start|>user\n{TASK}<|im_end|>\n<|im_start|>assistant\n"


@dataclass(slots=True)
class Heard:
    """What one client was sent."""

    headers: dict[str, str] = field(default_factory=dict)
    events: list[Json] = field(default_factory=list)
    is_done: bool = False

    @property
    def text(self) -> str:
        return "".join(choice["delta"].get("content") or "" for choice in self.choices)

    @property
    def choices(self) -> list[Json]:
        return [choice for event in self.events for choice in event["choices"]]

    @property
    def usage(self) -> Json:
        found: Json = self.events[-1]["usage"]
        return found


def body(first: int, **more: Any) -> Json:
    messages = [{"role": "system", "content": SYSTEM}, {"role": "user", "content": TASK.format(first=first)}]
    return {"messages": messages, "max_tokens": N_TOKENS, "temperature": 0, "ignore_eos": True, **more}


def listen(client: Client, first: int, heard: Heard) -> None:
    asked = body(first, stream=True, stream_options={"include_usage": True})
    with client.stream(CHAT, asked) as (response, found):
        heard.headers = dict(response.headers)
        for data in found:
            assert not heard.is_done
            if data == DONE:
                heard.is_done = True
            else:
                heard.events.append(json.loads(data))


def engines(client: Client) -> dict[str, Json]:
    return {engine["name"]: engine for engine in client.get("/status").json()["engines"]}


def kill(client: Client, name: str) -> None:
    """The worker itself, below the process that guards it."""
    (worker,) = psutil.Process(engines(client)[name]["pid"]).children()
    worker.kill()


@pytest.fixture(scope="module", params=["warm", "cold"])
def disturbed(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[int, Heard]]:
    """Streams whose worker was killed in their middle, by the number they began to count from."""
    folder = tmp_path_factory.mktemp("failover")
    config = folder / "gguf-server.toml"
    config.write_text(CONFIG.format(standby=request.param))
    with serving(folder, "--config", str(config)) as program:
        program.becomes_ready()
        client = Client(program.url())
        wanted = "ready" if request.param == "warm" else "stopped"
        until(lambda: [of["state"] for of in engines(client).values()] == ["ready", wanted], what="the chain")
        streams = {100 * i + 1: Heard() for i in range(N_STREAMS)}
        with ThreadPoolExecutor(N_STREAMS + 1) as threads:
            listening = [threads.submit(listen, client, first, heard) for first, heard in streams.items()]
            until(lambda: all(len(heard.events) > N_BEFORE for heard in streams.values()), what="streaming")
            whole = threads.submit(client.post, CHAT, body(1, max_tokens=200))
            until(lambda: client.get("/status").json()["queue"]["running"] > 0, what="one more")
            kill(client, "first")
            for future in listening:
                future.result()
            assert whole.result().status_code == 200
            assert whole.result().headers["x-engine"] == "second"
        told = engines(client)
        assert told["first"]["last_failure"]["reason"] == "crashed"
        assert told["second"]["state"] == "ready"
        yield streams


def test_every_stream_goes_on_to_its_end_under_one_identity(disturbed: dict[int, Heard]) -> None:
    for heard in disturbed.values():
        assert heard.is_done
        assert not any("error" in event for event in heard.events)
        assert heard.headers["x-engine"] == "first"
        assert len({event["id"] for event in heard.events}) == 1
        assert sum("role" in choice["delta"] for choice in heard.choices) == 1
        assert [event["x_engine"] for event in heard.events if "x_engine" in event] == ["second"]
        assert heard.choices[-1]["finish_reason"] == "length"


def test_the_usage_is_that_of_one_answer(disturbed: dict[int, Heard]) -> None:
    for heard in disturbed.values():
        usage = heard.usage
        assert abs(usage["completion_tokens"] - N_TOKENS) <= 1  # what was said before the death is counted as a text
        assert usage["total_tokens"] == usage["prompt_tokens"] + usage["completion_tokens"]


def test_the_text_is_the_one_that_llama_cpp_writes_by_itself(disturbed: dict[int, Heard]) -> None:
    with open_reference(n_ctx=512) as reference:
        for first, heard in disturbed.items():
            gaps = reference.gaps_on_the_way(PROMPT.format(first=first), heard.text, n_considered=5)
            assert all(gap <= MAX_GAP for gap in gaps), gaps


def test_a_lone_worker_that_is_stopped_is_noticed_and_replaced(tmp_path: Path, start: Callable[..., Program]) -> None:
    limits = "[services.demo.failover]\nstall_s = 1.0\nprobe_every_s = 1.0\nprobe_timeout_s = 1.0\n"
    program = start(config="[services.demo]\n" + limits)
    program.becomes_ready()
    client = Client(program.url())
    worker = program.worker()
    worker.suspend()
    until(lambda: not worker.is_running(), what="the end of a worker that hangs")
    program.becomes_ready()
    assert client.post(CHAT, chat()).status_code == 200
    failure = engines(client)["llama.cpp"]["last_failure"]
    assert failure is None or failure["reason"] == "unhealthy"
    assert engines(client)["llama.cpp"]["failures"] == {"unhealthy": 1}
