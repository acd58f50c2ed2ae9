"""The real program at its most talkative, over engines that fail in every way: what was said is in no log of it."""

from __future__ import annotations

import json
import socket
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path

import pytest
import requests

from tests.backends.fake_engine import command
from tests.e2e.client import Client
from tests.e2e.program import KEY, Program, free_ports, serving, until
from tests.marked import (
    CHAT,
    COMPLETIONS,
    HEADERS,
    MARKER,
    MESSAGES,
    PLAIN,
    RAW_BODIES,
    Json,
    chat,
    posts,
    send_malformed,
    told,
)

CONFIG = """
[server]
log_level = "debug"
log_format = "{form}"

[services.faulty]
model = "faulty"
service_name = "faulty"
title = "Faulty"
paths = [""]
max_model_len = 4096
timeout_s = 0.5
max_concurrent = 2
standby = "warm"
engines = [
  {{ kind = "openai", name = "first", url = "http://127.0.0.1:{first}", dialect = "vllm" }},
  {{ kind = "openai", name = "second", url = "http://127.0.0.1:{second}", dialect = "vllm" }},
]

[services.faulty.failover]
max_failures = 1000
failback_after_s = 0.1
failback_longest_s = 0.2
stable_after_s = 0.01
stall_s = 0.5
probe_timeout_s = 0.5
"""

FAULTS: list[Json] = [
    {"kind": "error_500"},
    {"kind": "repeat", "code": 400},
    {"kind": "repeat", "code": 404},
    {"kind": "repeat", "code": 422},
    {"kind": "repeat", "code": 500},
    {"kind": "repeat", "code": 400, "after_words": 2},
    {"kind": "repeat", "code": 500, "after_words": 2},
    {"kind": "garbage"},
    {"kind": "garbage", "after_words": 2},
    {"kind": "cut", "after_words": 3},
]


@dataclass(frozen=True, slots=True)
class Faulty:
    program: Program
    client: Client
    engines: tuple[str, str]

    def arm(self, number: int, fault: Json) -> None:
        requests.post(f"{self.engines[number]}/_fault", json=fault, timeout=5)

    def ask_through(self, fault: Json) -> None:
        """Of the first engine that suffers it, then of both."""
        for victims in ((0,), (0, 1)):
            for number in victims:
                self.arm(number, {**fault, "asked": MARKER})
            for path, body in ((CHAT, chat(max_tokens=50)), (COMPLETIONS, {"prompt": MARKER, "max_tokens": 50})):
                for stream in (False, True):
                    self.client.post(path, {**body, "stream": stream})
        for number in (0, 1):
            self.arm(number, {"kind": "none"})


@pytest.fixture(scope="module", params=["json", "console"])
def faulty(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Faulty]:
    folder: Path = tmp_path_factory.mktemp("secrecy")
    first, second = free_ports(2)
    (folder / "own.toml").write_text(CONFIG.format(form=request.param, first=first, second=second))
    with ExitStack() as stack:
        for port in (first, second):
            engine = subprocess.Popen(command("--port", str(port)), stderr=subprocess.DEVNULL)
            stack.callback(engine.wait)
            stack.callback(engine.kill)
        program = stack.enter_context(serving(folder, "--config", "own.toml"))
        program.listens()
        engines = (f"http://127.0.0.1:{first}", f"http://127.0.0.1:{second}")
        yield Faulty(program, Client(program.url()), engines)


@pytest.fixture(scope="module")
def printed(faulty: Faulty) -> str:
    """All that the program printed and shows, after the markers went everywhere they can go."""
    client, program = faulty.client, faulty.program
    program.becomes_ready()
    for path, body in posts():
        client.post(path, body)
        client.post(f"{path}?prompt={PLAIN}", {**body, "stream": True})
    for raw in RAW_BODIES:
        for path in (CHAT, COMPLETIONS, "/chat"):
            client.post(path, raw=raw)
    client.post(CHAT, raw=PLAIN.encode() * (1 << 20))
    for headers in HEADERS:
        with suppress(requests.exceptions.ConnectionError):
            client.post(CHAT, chat(), headers=headers)
        client.get("/status", headers=headers)
    for method in ("PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "QUERY", "PROPFIND"):
        requests.request(method, program.url(f"{CHAT}?{PLAIN}"), data=MARKER.encode(), timeout=10)
    faulty.arm(0, {"kind": "hang", "asked": MARKER})
    for messages in MESSAGES[:3]:
        with suppress(requests.exceptions.ReadTimeout):
            requests.post(program.url(CHAT), json={"messages": messages}, headers=client.headers, timeout=0.1)
    for fault in FAULTS:
        faulty.ask_through(fault)
    for number in (0, 1):
        faulty.arm(number, {"kind": "hang", "after_words": 2, "asked": MARKER})
    client.post(CHAT, chat(stream=True, max_tokens=50))
    send_malformed(lambda: socket.create_connection(("127.0.0.1", program.port)), KEY)
    faulty.arm(0, {"kind": "kill", "after_words": 2})
    client.post(CHAT, chat(stream=True, max_tokens=50))
    client.get("/health", headers={"x-request-id": "the-last-one"})
    until(lambda: "the-last-one" in program.printed(), what="the last line of the log")
    shown = [client.get(path).text for path in ("/status", "/metrics", "/health", "/", "/openapi.json")]
    return "\n".join([program.printed(), *shown])


def test_nothing_of_a_request_is_printed_or_shown(printed: str) -> None:
    assert not told(printed)


def test_no_key_is_printed_or_shown(printed: str) -> None:
    assert KEY not in printed


def test_nothing_went_wrong_that_was_not_foreseen(printed: str) -> None:
    assert "Traceback" not in printed
    assert "unexpected error" not in printed
    assert "nobody waited for" not in printed


def test_malformed_requests_are_told_of_by_their_kind(printed: str) -> None:
    assert "not HTTP" in printed
    assert "BadStatusLine" in printed


def test_each_line_of_the_json_form_is_an_object(faulty: Faulty, printed: str) -> None:
    assert printed
    lines = faulty.program.printed().splitlines()
    if lines[0].startswith("{"):
        assert all(isinstance(json.loads(line), dict) for line in lines)
