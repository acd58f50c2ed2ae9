"""Records of requests as the gateway leaves them."""

from __future__ import annotations

from typing import Any, Final

from gguf_server.request_record import RequestRecord

DAY: Final = 20_000
"""2024-10-04, in days since 1970."""


def record(**fields: Any) -> RequestRecord:
    given = {"key_id": "k1", "service": "demo", "model": "m", "engine": "vllm", "status": 200, **fields}
    return RequestRecord("req-1", "POST", "/v1/chat/completions", DAY * 86_400.0 + 60, **given)
