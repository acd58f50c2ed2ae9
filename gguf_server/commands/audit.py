"""`gguf-server audit verify`: the files of an audit held against its key."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from gguf_server.audit import secret
from gguf_server.audit.chain import Position
from gguf_server.audit.files import files_of, in_order, lines_of
from gguf_server.audit.head import HeadDamaged, read_head
from gguf_server.audit.secret import AuditError, AuditKeys
from gguf_server.audit.verify import Finding, Verdict, verify

_MOST_SHOWN: Final = 50


def verify_files(paths: Sequence[Path], key_file: Path, *, with_rotated: bool, is_partial: bool) -> int:
    """Prints what is wrong, or that nothing is; returns the exit status."""
    try:
        keys = secret.load(key_file)
        verdict, files = _verify(keys, paths, with_rotated, is_partial)
        while with_rotated and files != _files(paths, with_rotated):  # the server put one beside meanwhile
            verdict, files = _verify(keys, paths, with_rotated, is_partial)
    except AuditError as error:
        print(error, file=sys.stderr)
        return 1
    _show(verdict, len(files))
    return 0 if verdict.is_sound else 1


def _verify(keys: AuditKeys, paths: Sequence[Path], with_rotated: bool, is_partial: bool) -> tuple[Verdict, list[Path]]:
    heads, damaged = _heads(keys, paths)  # before the lines: a running server writes them in the other order
    files = _files(paths, with_rotated)
    verdict = verify(keys.chain, lines_of(files), heads[-1] if heads else None, is_partial=is_partial)
    verdict.faults.extend(damaged)
    return verdict, files


def _files(paths: Sequence[Path], with_rotated: bool) -> list[Path]:
    return in_order(file for path in paths for file in (files_of(path) if with_rotated else (path,)))


def _heads(keys: AuditKeys, paths: Sequence[Path]) -> tuple[list[Position], list[Finding]]:
    heads, damaged = [], []
    for path in paths:
        try:
            if (head := read_head(keys.head, path)) is not None:
                heads.append(head)
        except HeadDamaged as error:
            damaged.append(Finding("", str(error)))
    return sorted(heads, key=lambda head: head.seq), damaged


def _show(verdict: Verdict, n_files: int) -> None:
    for label, findings in (("note", verdict.notes), ("FAULT", verdict.faults)):
        for finding in findings[:_MOST_SHOWN]:
            print(f"{label}: {finding}")
        if len(findings) > _MOST_SHOWN:
            print(f"{label}: … and {len(findings) - _MOST_SHOWN} more")
    said = f"{verdict.n_lines} lines in {n_files} files, the last is number {verdict.last.seq}"
    print(f"sound: {said}" if verdict.is_sound else f"NOT SOUND, {len(verdict.faults)} faults: {said}")
