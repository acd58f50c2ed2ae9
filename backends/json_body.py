"""JSON from outside, that can be written again."""

from __future__ import annotations

from typing import Final

import orjson

_CERTAINLY_WRITABLE_DEPTH: Final = (
    200  # orjson reads 1,024 levels and writes 254, of which some may be added on the way
)


def read_json(raw: bytes) -> object:
    """Raises `ValueError`, which says what is wrong and repeats nothing of it."""
    body = orjson.loads(raw)
    if raw.count(b"[") + raw.count(b"{") > _CERTAINLY_WRITABLE_DEPTH:
        try:
            orjson.dumps(body)
        except orjson.JSONEncodeError as error:
            raise ValueError("it is nested too deeply") from error
    return body
