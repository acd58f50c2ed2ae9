"""Schemathesis against the real gateway over fake engines: `python -m tests.api.conformance [ARGUMENTS OF st run]`.

Without arguments it looks for some minutes; the test suite looks at less of the same.
"""

from __future__ import annotations

import asyncio
import logging
import sys
from pathlib import Path

import structlog

from tests.gguf_server.gateway import KEY, gateway

_HERE = Path(__file__).parent
_LONG = ("--phases", "examples,coverage,fuzzing", "--max-examples", "300", "--seed", "1")


async def conformance(*arguments: str, echo: bool = False) -> tuple[int, str]:
    """Exit status and report of `st run` on a gateway of its own. With `echo` the report goes to the terminal."""
    async with gateway(("--answer-words", "4"), (), max_tokens_limit=1 << 64, max_queue=1000) as found:
        await found.until_up("a")
        program = Path(sys.executable).with_name("st")
        given = ("run", f"{found.url}/openapi.json", "--header", f"Authorization: Bearer {KEY}", "--no-color")
        process = await asyncio.create_subprocess_exec(
            str(program),
            *("--config-file", str(_HERE / "schemathesis.toml")),
            *given,
            *arguments,
            stdout=None if echo else asyncio.subprocess.PIPE,
            stderr=None if echo else asyncio.subprocess.STDOUT,
        )
        said, _ = await process.communicate()
        return await process.wait(), said.decode() if said else ""


def main() -> None:
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR))
    logging.getLogger("aiohttp.server").disabled = True  # it tells of each request that was malformed on purpose
    status, _ = asyncio.run(conformance(*(sys.argv[1:] or _LONG), echo=True))
    sys.exit(status)


if __name__ == "__main__":
    main()
