"""A line's place in the chain, and its seal.

    {"seq":7, …what it tells…, "prev":"<mac of line 6>","mac":"<mac of all before it in this line>"}

The MAC is HMAC-SHA256 under a key that is not in the audit's folder, so whoever can write the files but has not the key
can neither change a line, nor make one, nor put a line elsewhere. It is over the bytes as they are written: there is no
second spelling of a line.
"""

from __future__ import annotations

import hmac
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import orjson

Fields = Mapping[str, Any]

_BEFORE_MAC: Final = b',"mac":"'
_AFTER_MAC: Final = b'"}'
_MAC_CHARS: Final = 64
_N_SEAL_BYTES: Final = len(_BEFORE_MAC) + _MAC_CHARS + len(_AFTER_MAC)


@dataclass(frozen=True, slots=True)
class Position:
    """Where a chain stands: the number of its last line, and that line's MAC."""

    seq: int
    mac: str


BEGINNING: Final = Position(0, "0" * _MAC_CHARS)


@dataclass(frozen=True, slots=True)
class Line:
    """A line whose seal is right. `prev` is the MAC of the line that it was written after."""

    position: Position
    prev: str
    fields: Fields


def seal(key: bytes, last: Position, fields: Fields) -> tuple[bytes, Position]:
    """The line that follows `last`, with its newline, and where the chain stands then."""
    seq = last.seq + 1
    body = orjson.dumps({"seq": seq, **fields, "prev": last.mac})[:-1]
    mac = mac_of(key, body)
    return body + _BEFORE_MAC + mac.encode() + _AFTER_MAC + b"\n", Position(seq, mac)


def unseal(key: bytes, raw: bytes) -> Line | None:
    """`raw` is a line without its newline; None unless it is, byte for byte, one that was sealed with this key."""
    body, rest = raw[:-_N_SEAL_BYTES], raw[-_N_SEAL_BYTES:]
    mac = mac_of(key, body)
    if not hmac.compare_digest(rest, _BEFORE_MAC + mac.encode() + _AFTER_MAC):
        return None
    fields = orjson.loads(body + b"}")
    seq, prev = fields.pop("seq"), fields.pop("prev")
    return Line(Position(seq, mac), prev, fields)


def mac_of(key: bytes, text: bytes) -> str:
    return hmac.digest(key, text, "sha256").hex()
