"""`gguf-server bench …`, or `python -m bench …`: measure servers, and read what was measured."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence
from typing import Final

ACTIONS: Final = {
    "run": ("bench.suites.run", "measure a suite, or any OpenAI-compatible servers"),
    "report": ("bench.reports.report", "write Markdown and a page with plots from a result"),
    "compare": ("bench.verdicts.compare", "hold one result against another, with confidence intervals"),
    "suggest": ("bench.verdicts.suggest", "propose the order of a service's engines from a result"),
}
_EXTRA: Final = frozenset({"psutil", "jsonschema", "matplotlib", "rich"})


def main(argv: Sequence[str] | None = None) -> int:
    """The exit status: that of the action, or 2 where there is none of that name."""
    action, *rest = (sys.argv[1:] if argv is None else list(argv)) or ["--help"]
    if action in ("-h", "--help"):
        print(_help())
        return 0
    if action not in ACTIONS:
        print(f"bench: there is no {action!r}; there are {', '.join(ACTIONS)}", file=sys.stderr)
        return 2
    try:
        module = importlib.import_module(ACTIONS[action][0])
    except ModuleNotFoundError as error:
        if error.name not in _EXTRA:
            raise
        print(f"bench: {error.name} is not installed: pip install 'gguf-server[bench]'", file=sys.stderr)
        return 2
    return int(module.main(rest))


def _help() -> str:
    lines = [f"  {action:<10}{told}" for action, (_, told) in ACTIONS.items()]
    return "\n".join(["usage: gguf-server bench ACTION …   (ACTION --help tells its options)", "", *lines])
