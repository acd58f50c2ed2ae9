"""The declared differences as `docs/parity.md`: `python -m tests.parity.render` writes it."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Final

from tests.parity.declared import SECTIONS
from tests.parity.differences import Declared
from tests.parity.suite import SUITE

PAGE: Final = Path(__file__).parents[2] / "docs" / "parity.md"

_INTRODUCTION: Final = f"""\
# The llama.cpp worker and vLLM

{len(SUITE)} requests (`tests/parity/cases/`) go to a real vLLM 0.32 and to the worker, both with the same small model.
Of each pair of answers are compared: the status, the type of every field at every depth (for a stream, over all its
chunks), finish reasons, usage, what was called, where a text has to begin or end, and which field an error names. What
vLLM said is kept in `tests/parity/vllm.json`, so that the worker is held to it wherever the tests run; `make test-vllm`
asks vLLM again. A difference that is not below fails a test, and so does a line below that is no difference any more.

Names of requests and fields may hold `*`, which stands for anything.
"""


def page() -> str:
    sections = [f"## {title}\n\n{_table(rows)}\n" for title, rows in SECTIONS.items()]
    return "\n".join([_INTRODUCTION, *sections])


def _table(rows: Iterable[Declared]) -> str:
    lines = ["| where | request | vLLM | worker | why |", "| --- | --- | --- | --- | --- |"]
    for row in rows:
        cells = (_listed(row.where), _listed(row.cases), _listed(row.vllm), _listed(row.worker), row.reason)
        lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return "\n".join(lines)


def _listed(patterns: str) -> str:
    return "all" if patterns == "*" else ", ".join(f"`{pattern}`" for pattern in patterns.split(", "))


def main() -> None:
    PAGE.parent.mkdir(exist_ok=True)
    PAGE.write_text(page(), encoding="utf-8")


if __name__ == "__main__":
    main()
