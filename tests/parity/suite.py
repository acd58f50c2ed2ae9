"""All requests of the suite."""

from __future__ import annotations

from typing import Final

from tests.parity.case import Case
from tests.parity.cases import calls, chats, refusals, structured, texts, tokens

SUITE: Final[tuple[Case, ...]] = (
    *chats.CASES,
    *texts.CASES,
    *structured.CASES,
    *calls.CASES,
    *tokens.CASES,
    *refusals.CASES,
)
BY_NAME: Final = {case.name: case for case in SUITE}
