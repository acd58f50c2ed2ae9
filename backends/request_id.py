"""The name of a request, which is in every log on its way: the client's own where that is a sound one."""

from __future__ import annotations

import re
import secrets
from typing import Final

HEADER: Final = "x-request-id"

_SOUND: Final = re.compile(r"[A-Za-z0-9._:-]{1,128}")


def request_id(given: str | None) -> str:
    """`given`, or a new one where that is missing or could be mistaken for something else in a log."""
    return given if given and _SOUND.fullmatch(given) else f"req-{secrets.token_hex(12)}"
