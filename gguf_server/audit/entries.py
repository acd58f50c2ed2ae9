"""What the lines of an audit say."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from typing import Any

from gguf_server.audit.chain import Fields
from gguf_server.request_record import RequestRecord


def of_request(record: RequestRecord, *, with_client: bool) -> Fields:
    """`time` is when it began; what is not known is left out."""
    said: dict[str, Any] = {
        "event": "request",
        "time": as_text(record.started_at),
        "request_id": record.request_id,
        "key_id": record.key_id,
        "client": record.client if with_client else None,
        "method": record.method,
        "route": record.path,
        "service": record.service,
        "model": record.model,
        "engine": record.engine,
        "status": record.status,
        "error": record.error,
        "prompt_tokens": record.n_prompt_tokens,
        "completion_tokens": record.n_completion_tokens,
        "estimated": record.is_estimated or None,
        "truncated": record.n_dropped or None,
        "failovers": record.n_failovers or None,
        "elapsed_s": round(record.elapsed_s, 4),
        "ttft_s": None if record.ttft_s is None else round(record.ttft_s, 4),
        "prompt_hash": record.prompt_hash,
    }
    return {name: value for name, value in said.items() if value is not None}


def of_event(event: str, **said: Any) -> Fields:
    """Something that happened to the audit itself."""
    return {"event": event, "time": as_text(time.time()), **said}


def as_text(at_s: float) -> str:
    return datetime.fromtimestamp(at_s, UTC).isoformat(timespec="milliseconds")
