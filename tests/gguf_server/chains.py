"""What tests of a chain wait for and look at."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from gguf_server.chain import EngineChain


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(5):
        while not condition():
            await asyncio.sleep(0.001)


def serves(chain: EngineChain, name: str) -> bool:
    return chain.serving is not None and chain.serving.engine.name == name
