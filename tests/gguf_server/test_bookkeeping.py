"""What the books of a gateway say of the requests that went through it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import orjson
import pytest
from structlog.testing import capture_logs

from gguf_server.audit import secret
from gguf_server.audit.files import files_of, lines_of
from gguf_server.audit.head import read_head
from gguf_server.audit.log_file import LogFile
from gguf_server.audit.secret import AuditError
from gguf_server.audit.verify import verify
from gguf_server.limits.limiter import Limiter
from gguf_server.limits.policy import KeyLimits
from gguf_server.usage.report import Grouping, Question, ask
from tests.gguf_server.gateway import gateway
from tests.gguf_server.limits.quick_gateway import engine, quick_gateway

MARK = "the-patient-said-something"


def books(folder: Path, **audit: Any) -> dict[str, Any]:
    return {
        "usage": {"file": folder / "usage.db"},
        "audit": {"file": folder / "audit.jsonl", "hash_key_file": folder / "audit.key", "fsync": "second", **audit},
    }


def audited(folder: Path) -> list[dict[str, Any]]:
    """The lines of requests, of an audit that is sound."""
    keys = secret.load(folder / "audit.key")
    audit = folder / "audit.jsonl"
    assert verify(keys.chain, lines_of(files_of(audit)), read_head(keys.head, audit)).is_sound
    lines = [orjson.loads(line.raw) for line in lines_of(files_of(audit))]
    assert (lines[0]["event"], lines[-1]["event"]) == ("start", "stop")
    return [line for line in lines if line["event"] == "request"]


def _all_written(folder: Path) -> bytes:
    return b"".join(path.read_bytes() for path in folder.iterdir())


async def test_each_request_of_a_key_is_in_both_books_without_its_content(tmp_path: Path) -> None:
    async with gateway((), tables=books(tmp_path)) as gate:
        await gate.until_up("a")
        said = [{"role": "user", "content": MARK}]
        await gate.ask(messages=said)
        await gate.ask(messages=said, stream=True)
        await gate.ask("/chat", messages=said)
        await gate.ask(f"/{MARK}")
        await gate.get(f"/v1/models/{MARK}")
        await gate.ask(messages=said, model="no-such-model")
        async with gate.session.post(gate.url + "/chat", headers={"Authorization": "Bearer wrong"}) as refused:
            assert refused.status == 401
        await gate.get("/health")
    lines = audited(tmp_path)
    assert [(line["status"], line.get("key_id"), line.get("route")) for line in lines] == [
        (200, "env-1", "/v1/chat/completions"),
        (200, "env-1", "/v1/chat/completions"),
        (200, "env-1", "/chat"),
        (404, "env-1", "/v1/models/{id}"),
        (404, "env-1", "/v1/chat/completions"),
        (401, None, "/chat"),
    ]
    assert len({line["prompt_hash"] for line in lines if line["route"] != "/v1/models/{id}" and "key_id" in line}) == 1
    assert "prompt_hash" not in lines[3]
    assert "ttft_s" in lines[1]
    assert lines[0]["engine"] == "a"
    assert lines[0]["completion_tokens"] > 0
    assert MARK.encode() not in _all_written(tmp_path)
    answered, turned_away = ask(tmp_path / "usage.db", Question(None, None, (Grouping.ENGINE,)))[::-1]
    assert (answered.group, answered.n_requests, answered.n_refused) == (("a",), 3, 0)
    assert answered.n_completion_tokens == sum(line.get("completion_tokens", 0) for line in lines)
    assert (turned_away.group, turned_away.n_requests, turned_away.n_refused) == (("",), 1, 1)


async def test_what_cannot_be_audited_is_refused_and_the_status_says_why(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with gateway((), tables=books(tmp_path)) as gate:
        await gate.until_up("a")

        def full(*_: object) -> None:
            raise OSError("the disk is full")

        with monkeypatch.context() as patch, capture_logs():
            patch.setattr(LogFile, "append", full)
            await gate.ask()
            status: dict[str, Any] = {}
            while not status.get("problems"):
                _, status = await gate.get("/status")
            assert status["problems"] == {"audit": "the disk is full"}
            refused = await gate.ask()
            assert (refused.status, (refused.error or {})["code"]) == (503, "audit_unavailable")
            assert refused.headers["retry-after"]
        while (await gate.ask()).status != 200:
            pass
    lines = audited(tmp_path)
    assert [line["status"] for line in lines if line["method"] == "POST"][:2] == [200, 503]


async def test_an_audit_whose_key_is_gone_does_not_start(tmp_path: Path) -> None:
    async with gateway((), tables=books(tmp_path)):
        pass
    (tmp_path / "audit.key").unlink()
    with pytest.raises(AuditError, match="key is not there"):
        async with gateway((), tables=books(tmp_path)):
            pass


async def test_a_gateway_whose_usage_cannot_be_kept_answers_and_says_so(tmp_path: Path) -> None:
    (tmp_path / "usage.db").mkdir()
    with capture_logs():
        async with gateway((), tables={"usage": {"file": tmp_path / "usage.db"}}) as gate:
            await gate.until_up("a")
            assert (await gate.ask()).status == 200
            status: dict[str, Any] = {}
            while not status.get("problems"):
                _, status = await gate.get("/status")
            assert "usage.db" in status["problems"]["usage"]


async def test_a_quota_of_the_day_goes_on_after_a_restart(tmp_path: Path) -> None:
    kept = {"usage": {"file": tmp_path / "usage.db"}}
    quota = KeyLimits(requests_per_day=2, tokens_per_day=5000)
    async with engine() as url:
        async with quick_gateway(url, Limiter(quota), tables=kept) as before:
            first = await before.ask()
            assert first.headers["x-ratelimit-remaining-requests"] == "1"
            await before.ask(model="no-such-model")  # never let in, so not of the quota
        async with quick_gateway(url, Limiter(quota), tables=kept) as after:
            second = await after.ask()
            assert (second.status, second.headers["x-ratelimit-remaining-requests"]) == (200, "0")
            n_left = 5000 - 2 * first.body["usage"]["total_tokens"]
            assert second.headers["x-ratelimit-remaining-tokens"] == str(n_left)
        async with quick_gateway(url, Limiter(quota), tables=kept) as again:
            assert (await again.ask()).status == 429


async def test_tokens_of_a_stream_that_its_client_left_are_estimated_and_kept(tmp_path: Path) -> None:
    slow = engine("--answer-words", "2000", "--token-s", "0.002")
    async with slow as url, quick_gateway(url, Limiter(), tables=books(tmp_path)) as gate:
        said = {"messages": [{"role": "user", "content": "Count"}], "stream": True}
        async with gate.session.post(gate.url + "/v1/chat/completions", json=said) as response:
            await response.content.readuntil(b"\n\n")
        await gate.until(lambda: gate.service.n_in_flight == 0)
    (line,) = audited(tmp_path)
    assert line["estimated"]
    (row,) = ask(tmp_path / "usage.db", Question(None, None, (Grouping.KEY,)))
    assert (row.n_errors, row.n_refused) == (0, 0)
    assert (row.n_prompt_tokens, row.n_completion_tokens) == (line["prompt_tokens"], line["completion_tokens"])
    assert row.n_completion_tokens > 0
