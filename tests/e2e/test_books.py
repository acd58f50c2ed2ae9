"""Usage and audit of a real server that is killed, and what the commands say of it, running or not."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from gguf_server.usage.report import Grouping, Question, ask
from tests.e2e.client import CHAT, Client
from tests.e2e.program import Program, run_command, until

CONFIG = """
[audit]
file = "audit.jsonl"

[limits]
requests_per_day = 2

[services.demo]
"""
BY_KEY = Question(None, None, (Grouping.KEY,))
BODY = {"messages": [{"role": "user", "content": "a question that no book may hold"}], "max_tokens": 4}


def usage(folder: Path) -> dict[str, Any]:
    done = run_command(folder, "usage", "--config", "own.toml", "--json")
    assert done.returncode == 0, done.stderr
    return dict(json.loads(done.stdout)["total"])


def test_a_killed_server_has_kept_its_books_and_the_next_one_goes_on_with_them(
    start: Callable[..., Program], tmp_path: Path
) -> None:
    killed = start(config=CONFIG)
    killed.becomes_ready()
    answer = Client(killed.url()).post(CHAT, BODY)
    assert answer.status_code == 200
    until(lambda: bool(ask(tmp_path / "state/gguf-server/usage.db", BY_KEY)), what="usage of a request")
    assert usage(tmp_path)["completion_tokens"] == answer.json()["usage"]["completion_tokens"]
    killed.process.kill()
    killed.ends()

    following = start(config=CONFIG)
    following.becomes_ready()
    client = Client(following.url())
    assert [client.post(CHAT, BODY).status_code for _ in range(2)] == [200, 429]
    following.terminate()
    assert following.ends() == 0
    used = usage(tmp_path)
    assert (used["requests"], used["refused"]) == (3, 1)
    verified = run_command(tmp_path, "audit", "verify", "--config", "own.toml")
    assert verified.stdout.startswith("sound: "), verified.stdout
    lines = [json.loads(line) for line in (tmp_path / "audit.jsonl").read_text().splitlines()]
    assert [line["event"] for line in lines] == ["start", "request", "start", "request", "request", "stop"]
    assert len({line["prompt_hash"] for line in lines if line["event"] == "request"}) == 1
    assert "no book may hold" not in str(lines)
