"""The files of one audit: the one that is written, and those that were put beside it, by us or by logrotate."""

from __future__ import annotations

import gzip
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Final, cast

import orjson

from gguf_server.audit.secret import AuditError

MOST_LINE_BYTES: Final = 64 << 10
_NO_LINES: Final = re.compile(r"\.(head|head\.tmp|lock|torn-.*)")


@dataclass(frozen=True, slots=True)
class RawLine:
    """`number` counts from 1 in its file; `is_whole`: it ends in a newline, which `raw` is without."""

    path: Path
    number: int
    raw: bytes
    is_whole: bool


def files_of(audit: Path) -> list[Path]:
    """All that there are of it, in the order of their lines. Raises `AuditError`."""
    beside = [
        path
        for path in audit.parent.glob(f"{_escaped(audit.name)}[.-]*")
        if not _NO_LINES.fullmatch(path.name.removeprefix(audit.name))
    ]
    return in_order([*beside, audit] if audit.exists() else beside)


def in_order(paths: Iterable[Path]) -> list[Path]:
    """By the number of their first line; one whose first line has none comes by its name, before the others."""
    return sorted(paths, key=lambda path: (_first_seq(path), path.name))


def lines_of(paths: Iterable[Path]) -> Iterator[RawLine]:
    """A line longer than any that is written comes in pieces. Raises `AuditError`."""
    for path in paths:
        try:
            with _open(path) as file:
                number = 0
                while raw := file.readline(MOST_LINE_BYTES):
                    number += 1
                    yield RawLine(path, number, raw.removesuffix(b"\n"), raw.endswith(b"\n"))
        except (OSError, EOFError) as exc:
            raise AuditError(f"{path}: {getattr(exc, 'strerror', None) or exc}") from exc


def _open(path: Path) -> BinaryIO:
    return cast(BinaryIO, gzip.open(path)) if path.suffix == ".gz" else path.open("rb")


def _first_seq(path: Path) -> int:
    first = next(lines_of([path]), None)
    try:
        said = orjson.loads(first.raw) if first else {}
    except orjson.JSONDecodeError:
        return 0
    seq = said.get("seq") if isinstance(said, dict) else None
    return seq if isinstance(seq, int) else 0


def _escaped(name: str) -> str:
    """For a glob."""
    return re.sub(r"([*?[])", r"[\1]", name)
