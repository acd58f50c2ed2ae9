"""One request from its first byte to its end, as its client sees it, with the times."""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass
from typing import Final

import aiohttp

from tests.soak.traffic import Ask
from tests.soak.verdict import End, Heard, judge

_PATIENCE_S: Final = 60.0


@dataclass(frozen=True, slots=True)
class Outcome:
    """Times are those of the event loop's clock, in seconds; `ttft_s`: to a stream's first word."""

    of: str
    service: str
    kind: str
    began: float
    ended: float
    ttft_s: float | None
    end: End
    problem: str

    @property
    def elapsed_s(self) -> float:
        return self.ended - self.began


async def ask_once(session: aiohttp.ClientSession, url: str, service: str, ask: Ask, *, of: str, token: str) -> Outcome:
    """`of`: the class of its client. Raises nothing of the network's: that is an end as well."""
    clock = asyncio.get_running_loop().time
    began, heard = clock(), Heard()
    headers = {"Authorization": f"Bearer {token}"}
    try:
        async with asyncio.timeout(ask.leaves_after_s or _PATIENCE_S):
            async with session.post(f"{url}/{service}{ask.path}", json=ask.body, headers=headers) as response:
                await _listen(response, heard)
    except TimeoutError:
        heard.has_left = ask.leaves_after_s is not None
        heard.cut = f"nothing for {_PATIENCE_S:g} s"
    except (aiohttp.ClientError, ConnectionError, ValueError) as error:
        heard.cut = repr(error)
    end, problem = judge(heard, ask)
    ttft_s = None if heard.first_word_at is None else heard.first_word_at - began
    return Outcome(of, service, ask.kind, began, clock(), ttft_s, end, problem)


async def _listen(response: aiohttp.ClientResponse, heard: Heard) -> None:
    now = asyncio.get_running_loop().time
    heard.status, heard.headers = response.status, response.headers.copy()
    if response.content_type != "text/event-stream":
        heard.take(await response.json())
        return
    async for line in response.content:
        if line.startswith(b"data: [DONE]"):
            heard.is_done = True
        elif line.startswith(b"data: "):
            heard.take(json.loads(line.removeprefix(b"data: ")), now())
