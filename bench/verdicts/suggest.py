"""The order of a service's engines, proposed from results, with reasons and the TOML to paste.

gguf-server bench suggest RESULT.json [RESULT.json ...] --service qwen3
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import tomli_w

from bench.records.record import RecordError, Report, read
from bench.reports.markdown import escaped
from bench.verdicts.candidates import Candidate, RefusedError, candidates
from bench.verdicts.chain_order import EQUAL, Placed, order
from bench.verdicts.ratio import LEAST


@dataclass(frozen=True, slots=True)
class Suggestion:
    """Most wanted first."""

    chain: tuple[Placed, ...]
    notes: tuple[str, ...]


def suggest(
    reports: Sequence[Report], *, model: str | None = None, names: Sequence[str] = (), memory_bytes: float | None = None
) -> Suggestion:
    """Raises `RefusedError` where the results cannot decide."""
    found, left_out = candidates(reports, model=model, names=names, memory_bytes=memory_bytes)
    if not found:
        raise RefusedError("\n".join(["there is no engine in the results", *left_out]))
    return Suggestion(tuple(order(found)), (*left_out, *_cautions(found)))


def _cautions(found: Sequence[Candidate]) -> Iterator[str]:
    files = {tuple(sorted(file.sha256 or file.name for file in of.target.files)) for of in found if of.target.files}
    if len(files) > 1:
        yield "The engines serve different files: which answers better is not told by any figure here."
    n_least = min(len(of_row) for of in found for of_row in of.runs.values())
    if n_least < LEAST:
        yield f"Repetitions of some rows: {n_least}. With fewer than {LEAST}, a difference may be chance."


def toml(suggestion: Suggestion, service: str | None = None) -> str:
    """`[[engines]]` as a preset has it, or `[[services.NAME.engines]]` of a configuration."""
    place: dict[str, object] = {"engines": {"kind": ""}}
    header = tomli_w.dumps({"services": {service: place}} if service else place).splitlines()[0]
    tables = (tomli_w.dumps(placed.candidate.table) for placed in suggestion.chain)
    return "\n".join(f"[{header}]\n{table}" for table in tables)


def text(suggestion: Suggestion, service: str | None = None) -> str:
    """Markdown."""
    return "\n".join(_lines(suggestion, service)) + "\n"


def _lines(suggestion: Suggestion, service: str | None) -> Iterator[str]:
    yield f"Goodput decides, then the first token, then tokens a second; within {EQUAL:.0%} counts as equal."
    yield ""
    for number, placed in enumerate(suggestion.chain, start=1):
        yield f"{number}. {escaped(placed.candidate.target.name)}: {escaped(placed.reason)}."
    yield ""
    yield from (escaped(note) for note in suggestion.notes)
    yield "\n```toml"
    yield toml(suggestion, service).rstrip()
    yield "```"


def main(argv: Sequence[str] | None = None) -> int:
    """0, or 1 where the results cannot decide, or 2 where a file is no result."""
    given = _parser().parse_args(argv)
    memory_bytes = None if given.gpu_memory_gib is None else given.gpu_memory_gib * (1 << 30)
    try:
        reports = [read(path) for path in given.result]
        found = suggest(reports, model=given.model, names=given.target, memory_bytes=memory_bytes)
    except RefusedError as refused:
        print(f"bench suggest: {refused}", file=sys.stderr)
        return 1
    except (RecordError, OSError) as wrong:
        print(f"bench suggest: {wrong}", file=sys.stderr)
        return 2
    print(text(found, given.service), end="")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="bench suggest", description="The order of a service's engines, from results."
    )
    parser.add_argument("result", type=Path, nargs="+", metavar="RESULT.json", help="of one card and one model")
    parser.add_argument("--service", metavar="NAME", help="write the TOML as of this service of a configuration")
    parser.add_argument("--model", metavar="NAME", help="only targets that serve this model")
    parser.add_argument("--target", action="append", default=[], metavar="NAME", help="only this one; may be repeated")
    parser.add_argument("--gpu-memory-gib", type=float, metavar="N", help="memory there is; that of the card measured")
    return parser


if __name__ == "__main__":
    sys.exit(main())
