"""How the program begins and ends, and what it does when a part of it is killed."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import psutil
import requests

from tests.e2e.client import CHAT, DONE, MODELS, Client, chat, checked_error, chunks, endless, error_of
from tests.e2e.program import PROGRAM, Program, environment, run_command, serving, until

CUT_OFF_SOON = "[server]\ndrain_s = 0.3\n[services.demo]\n"


def test_first_start_makes_a_key_and_a_line_that_works(tmp_path: Path) -> None:
    with serving(tmp_path, keys=None) as first:
        first.listens()
        (token,) = set(re.findall(r"gsk-[\w-]+", first.printed()))
        (line,) = re.findall(r"^ *(curl .*)$", first.printed(), re.MULTILINE)
        first.becomes_ready()
        done = subprocess.run(("sh", "-c", line), capture_output=True, timeout=60)
        assert json.loads(done.stdout)["choices"][0]["message"]["content"]
    assert first.printed().count(token) == 2  # by itself and in the line, and in no log line
    kept = tmp_path / "state" / "gguf-server" / "keys.json"
    assert token not in kept.read_text()
    assert kept.stat().st_mode & 0o077 == 0
    with serving(tmp_path, keys=None) as second:
        second.listens()
        assert Client(second.url(), token).get(MODELS).status_code == 200
        assert "curl" not in second.printed()
        assert "gsk-" not in second.printed()


def test_keys_are_made_and_revoked_under_a_running_server(server: Program) -> None:
    made = run_command(server.folder, "keys", "create", "Dr. Nguyễn")
    assert made.returncode == 0, made.stderr
    token = made.stdout.strip()
    newcomer = Client(server.url("/demo"), token)
    assert newcomer.post(CHAT, chat(max_tokens=1)).status_code == 200
    listed = run_command(server.folder, "keys", "list").stdout
    assert "Dr. Nguyễn" in listed
    assert token not in listed
    assert run_command(server.folder, "keys", "revoke", "Dr. Nguyễn").returncode == 0
    error_of(newcomer.post(CHAT, chat(max_tokens=1)), 401)
    assert token not in server.printed()


def test_other_machines_are_not_let_in_without_keys(tmp_path: Path) -> None:
    refused = run_command(tmp_path, "serve", "--host", "0.0.0.0")
    assert refused.returncode == 2
    assert "gguf-server keys create" in refused.stderr
    assert refused.stdout == ""
    assert not (tmp_path / "state").exists()


def test_port_that_is_taken_ends_the_program_with_a_sentence(server: Program, tmp_path: Path) -> None:
    line = (PROGRAM, "serve", "--port", str(server.port))
    env = environment(tmp_path, "a-key")
    done = subprocess.run(line, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=30)
    assert done.returncode == 1
    assert "cannot listen" in done.stderr
    assert "Traceback" not in done.stderr


def test_sigterm_lets_a_running_answer_finish_and_takes_no_other(start: Callable[..., Program]) -> None:
    program = start()
    program.becomes_ready()
    client = Client(program.url())
    body = endless(stream=True, max_tokens=200)
    with client.stream(CHAT, body) as (_, running):
        first = next(running)
        program.terminate()
        refused = until(lambda: refusal(client), what="a refusal")
        assert error_of(refused, 503)["code"] == "shutting_down"
        assert int(refused.headers["Retry-After"]) > 0
        assert client.get("/health").status_code == 503
        found = chunks([first, *running])
    assert found[-1]["choices"][0]["finish_reason"] == "length"
    assert program.ends() == 0


def refusal(client: Client) -> requests.Response | None:
    answer = client.post(CHAT, chat(max_tokens=1))
    return answer if answer.status_code != 200 else None


def test_drain_that_takes_too_long_ends_answers_with_a_word(start: Callable[..., Program]) -> None:
    program = start(config=CUT_OFF_SOON)
    program.becomes_ready()
    client = Client(program.url())
    with ThreadPoolExecutor() as threads, client.stream(CHAT, endless(stream=True)) as (_, running):
        next(running)
        whole: Future[requests.Response] = threads.submit(client.post, CHAT, endless())
        until(lambda: client.get("/status").json()["queue"]["running"] == 2, what="both answers running")
        program.terminate()
        *_, last, done = running
        assert done == DONE
        assert checked_error(json.loads(last))["code"] == "shutting_down"
        assert error_of(whole.result(), 503)["code"] == "shutting_down"
    assert program.ends() == 0


def test_second_signal_ends_the_drain_at_once(start: Callable[..., Program]) -> None:
    program = start()
    program.becomes_ready()
    client = Client(program.url())
    with client.stream(CHAT, endless(stream=True)) as (_, running):
        next(running)
        program.terminate()
        until(lambda: client.get("/health").status_code == 503, what="draining")
        program.terminate()
        *_, last, done = running
        assert done == DONE
        assert checked_error(json.loads(last))["code"] == "shutting_down"
    assert program.ends(within_s=10) == 0


def test_no_worker_outlives_a_killed_gateway(start: Callable[..., Program]) -> None:
    program = start()
    program.becomes_ready()
    below = program.descendants()
    assert program.worker() in below
    program.process.kill()
    program.ends()
    _, left = psutil.wait_procs(below, timeout=15)
    assert not left


def test_service_comes_back_after_its_worker_was_killed(start: Callable[..., Program]) -> None:
    program = start()
    program.becomes_ready()
    client = Client(program.url())
    worker = program.worker()
    secret = "a question that no log may hold"
    with ThreadPoolExecutor() as threads, client.stream(CHAT, endless(stream=True, user=secret)) as (_, running):
        next(running)
        said = {"messages": [{"role": "user", "content": secret}], "max_tokens": 4000, "ignore_eos": True}
        whole: Future[requests.Response] = threads.submit(client.post, CHAT, said)
        until(lambda: client.get("/status").json()["queue"]["running"] == 2, what="both answers running")
        worker.kill()
        *_, last, done = running
        assert done == DONE
        assert checked_error(json.loads(last))["code"] == "engine_failed"
        assert error_of(whole.result(), 500)["code"] == "engine_failed"
    answer = until(lambda: unready(program), what="a 503 from /health")
    assert int(answer.headers["Retry-After"]) > 0
    program.becomes_ready()
    assert program.worker() != worker
    assert client.post(CHAT, chat()).status_code == 200
    assert client.get("/status").json()["engines"][0]["starts"] == 2
    assert secret not in program.printed()


def unready(program: Program) -> requests.Response | None:
    answer = program.answers("/health")
    return answer if answer is not None and answer.status_code == 503 else None


def test_nothing_is_left_where_sockets_were(start: Callable[..., Program]) -> None:
    program = start()
    program.becomes_ready()
    (socket,) = (Path(word) for word in program.worker().cmdline() if word.endswith(".sock"))
    assert socket.exists()
    program.terminate()
    assert program.ends() == 0
    assert not socket.parent.exists()
