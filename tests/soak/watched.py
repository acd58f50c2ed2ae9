"""The gateway's own program, unchanged, with one more task: it counts the tasks of its event loop.

`python -m tests.soak.watched FILE serve …` writes their number to FILE once a second. A task that is left behind by
each request shows in no memory figure before it is many.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Coroutine
from pathlib import Path
from typing import Any, TypeVar

from gguf_server import cli

Result = TypeVar("Result")

_EVERY_S = 1.0
_run = asyncio.run


async def _count_tasks(told: Path) -> None:
    whole = told.with_suffix(".new")
    while True:
        whole.write_text(str(len(asyncio.all_tasks())))
        whole.replace(told)
        await asyncio.sleep(_EVERY_S)


def main(told: Path) -> None:
    def run_watched(program: Coroutine[Any, Any, Result], **options: Any) -> Result:
        async def watched() -> Result:
            counting = asyncio.create_task(_count_tasks(told))
            try:
                return await program
            finally:
                counting.cancel()

        return _run(watched(), **options)

    asyncio.run = run_watched  # type: ignore[assignment]
    cli.main()


if __name__ == "__main__":
    path = Path(sys.argv.pop(1))
    main(path)
