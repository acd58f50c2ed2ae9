"""What a check found, and what to do about it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any, Final

SCHEMA: Final = 1


class Verdict(StrEnum):
    """Broken: something that was asked for does not work. Warning: it works, and not as well as it could."""

    OK = "ok"
    WARNING = "warning"
    BROKEN = "broken"


@dataclass(frozen=True, slots=True)
class Finding:
    """`subject` is what was looked at where a check looks at several things; `remedy` a command where there is one."""

    check: str
    verdict: Verdict
    message: str
    remedy: str | None = None
    subject: str | None = None


def worst(findings: Sequence[Finding]) -> Verdict:
    order = list(Verdict)
    return max((finding.verdict for finding in findings), key=order.index, default=Verdict.OK)


def exit_status(findings: Sequence[Finding]) -> int:
    """1 where something is broken; a warning is no failure."""
    return int(worst(findings) is Verdict.BROKEN)


def as_json(findings: Sequence[Finding]) -> dict[str, Any]:
    return {"schema": SCHEMA, "verdict": worst(findings), "findings": [asdict(finding) for finding in findings]}
