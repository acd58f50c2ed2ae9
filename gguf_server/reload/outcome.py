"""What came of one reload, for the log and for the operator."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from gguf_server.reload.plan import Action, Add, Change, ChangeTable, Remove, Replace


@dataclass(frozen=True, slots=True)
class Outcome:
    """`asked_by`: a signal, a file or an admin's key. With `problems` nothing has changed."""

    at: datetime
    asked_by: str
    problems: tuple[str, ...] = ()
    changes: tuple[str, ...] = ()
    needs_restart: tuple[str, ...] = ()

    def as_json(self) -> dict[str, Any]:
        return {
            "at": self.at.isoformat(timespec="seconds"),
            "asked_by": self.asked_by,
            "ok": not self.problems,
            "problems": list(self.problems),
            "changes": list(self.changes),
            "needs_restart": list(self.needs_restart),
        }


def describe(action: Action) -> str:
    """One line."""
    match action:
        case Add(name):
            return f"services.{name}: added"
        case Remove(name):
            return f"services.{name}: removed; it ends what it has begun"
        case Change(name, _, what):
            return f"services.{name}: {', '.join(what)} changed"
        case Replace(name, _, what):
            when = "beside the old ones, and take over" if action.is_beside else "when the old ones are done"
            return f"services.{name}: {', '.join(what) or 'engines'} changed: other engines are loaded {when}"
        case ChangeTable(table, what):
            return f"{table}: {', '.join(what)} changed"
