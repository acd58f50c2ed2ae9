"""Small audits to be tampered with."""

from __future__ import annotations

from pathlib import Path

from gguf_server.audit.chain import BEGINNING, Position, seal
from gguf_server.audit.files import RawLine
from gguf_server.audit.secret import derive
from gguf_server.audit.verify import Verdict, verify
from gguf_server.request_record import RequestRecord

KEYS = derive(b"k" * 32)
OTHER_KEYS = derive(b"o" * 32)


def chain(n_lines: int, last: Position = BEGINNING) -> tuple[list[bytes], Position]:
    """Sealed lines with their newlines, and where they end."""
    lines = []
    for number in range(n_lines):
        line, last = seal(KEYS.chain, last, {"event": "request", "key_id": "k1", "status": 200 + number})
        lines.append(line)
    return lines, last


def raw_lines(content: bytes) -> list[RawLine]:
    """As they are read from a file of that content."""
    return [
        RawLine(Path("audit.jsonl"), number, line.removesuffix(b"\n"), line.endswith(b"\n"))
        for number, line in enumerate(content.splitlines(keepends=True), start=1)
    ]


def judge(content: bytes, head: Position | None, *, is_partial: bool = False) -> Verdict:
    return verify(KEYS.chain, raw_lines(content), head, is_partial=is_partial)


def record(**fields: object) -> RequestRecord:
    given = {"key_id": "k1", "service": "demo", "status": 200, "elapsed_s": 0.5, **fields}
    return RequestRecord("req-1", "POST", "/v1/chat/completions", 1_700_000_000.0, **given)  # type: ignore[arg-type]
