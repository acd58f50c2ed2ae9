"""What people ask is nobody's business: no text of theirs, and no key, is ever printed. Not even for debugging."""

from __future__ import annotations

import pytest
import requests

from tests.e2e.client import CHAT, COMPLETIONS, MODELS, Client, chat, endless, user
from tests.e2e.program import KEY, OTHER_KEY, Program, until
from tests.marked import MARKER, RAW_BODIES, posts, told

TOKEN = "token-that-is-wrong-91c4"


@pytest.fixture(scope="module")
def printed(server: Program) -> str:
    """All that the server printed, after the marker went everywhere it can go."""
    demo = Client(server.url("/demo"))
    for path, body in posts():
        name = f"not good: {MARKER}".encode().decode("latin-1")
        demo.post(f"{path}?prompt={MARKER}", body, headers={"x-request-id": name})
    for raw in RAW_BODIES:
        demo.post(CHAT, raw=raw)
    demo.post(CHAT, raw=MARKER.encode() * (1 << 20))
    Client(demo.base_url, TOKEN).post(CHAT, chat(MARKER))
    Client(demo.base_url, TOKEN).get(MODELS)
    tight, hasty = Client(server.url("/tight")), Client(server.url("/hasty"))
    tight.post(CHAT, {"messages": [user(f"{MARKER} " * 20)] * 20, "max_tokens": 4})
    tight.post(CHAT, chat(f"{MARKER} " * 300))
    hasty.post(CHAT, {**endless(max_tokens=900), "messages": [user(MARKER)]})
    with demo.stream(CHAT, {**endless(stream=True), "messages": [user(MARKER)]}) as (_, running):
        next(running)
    body = {**endless(), "messages": [user(MARKER)]}
    with pytest.raises(requests.ReadTimeout):
        requests.post(demo.base_url + CHAT, json=body, headers=demo.headers, timeout=0.5)
    demo.get("/health", headers={"x-request-id": "the-last-one"})
    until(lambda: '"the-last-one"' in server.printed(), what="the last line of the log")
    return server.printed()


def test_no_prompt_is_ever_printed(printed: str) -> None:
    assert not told(printed)


def test_no_key_is_ever_printed(printed: str) -> None:
    assert not any(token in printed for token in (KEY, OTHER_KEY, TOKEN))


def test_nothing_went_wrong_that_was_not_foreseen(printed: str) -> None:
    assert "Traceback" not in printed
    assert "unexpected error" not in printed


def test_every_request_has_its_line(printed: str) -> None:
    for path in (CHAT, COMPLETIONS, "/chat"):
        assert f'"path": "/demo{path}", "status": 200' in printed


def test_one_name_finds_a_request_in_the_gateways_log_and_in_the_engines(server: Program) -> None:
    demo = Client(server.url("/demo"))
    for name, path, fields in (
        ("whole-1", CHAT, {}),
        ("stream-1", CHAT, {"stream": True}),
        ("wrong-1", CHAT, {"n": 99}),
    ):
        answer = demo.post(path, chat("Hi", **fields), headers={"x-request-id": name})
        assert answer.headers["x-request-id"] == name
    until(lambda: '"wrong-1"' in server.printed(), what="the last line of the log")
    lines = server.printed().splitlines()
    for name in ("whole-1", "stream-1"):
        until(lambda name=name: f'\\"{name}\\"' in server.printed(), what="the engine's line")  # type: ignore[misc]
        assert any(f'"request_id": "{name}"' in line and '"event": "request"' in line for line in lines)


def test_a_path_that_is_not_there_is_not_logged_as_it_was_written(server: Program) -> None:
    Client(server.url("/demo")).get("/my-secret-path", headers={"x-request-id": "lost-1"})
    until(lambda: '"lost-1"' in server.printed(), what="its line")
    (line,) = [line for line in server.printed().splitlines() if '"lost-1"' in line]
    assert '"path": "other"' in line
    assert "my-secret-path" not in server.printed()
