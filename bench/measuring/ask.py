"""A client that costs little: it keeps the bytes of an answer and looks into them once the clock has stopped."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import aiohttp
import orjson

from bench.servers import story

_PATH: Final = "/v1/chat/completions"
_FIRST_WORD: Final = f'"{story.FIRST_WORD}"'.encode()  # a chunk's; in a whole answer the text goes on
_QUESTION: Final = "Tell me a story that begins the way stories do, and let it be a long one."


@dataclass(frozen=True, slots=True)
class Answer:
    """Seconds since the request was sent; `first_s` is when the first chunk with text came, or a whole answer."""

    first_s: float
    end_s: float
    data: bytes


async def ask(session: aiohttp.ClientSession, model: str, n_chunks: int, *, stream: bool) -> Answer:
    """Raises `aiohttp.ClientError`, and `RuntimeError` for an answer other than 200."""
    body = {
        "model": model,
        "messages": [{"role": "user", "content": _QUESTION}],
        "max_tokens": n_chunks,
        "temperature": 0,
        "stream": stream,
    }
    sent = time.perf_counter()
    async with session.post(_PATH, data=orjson.dumps(body), headers={"Content-Type": "application/json"}) as answer:
        if answer.status != 200:
            raise RuntimeError(f"HTTP {answer.status}: {(await answer.text())[:200]}")
        pieces: list[bytes] = []
        first_s = None
        async for piece in answer.content.iter_any():
            pieces.append(piece)
            if first_s is None and _FIRST_WORD in b"".join(pieces):
                first_s = time.perf_counter() - sent
    end_s = time.perf_counter() - sent
    return Answer(end_s if first_s is None else first_s, end_s, b"".join(pieces))


async def ask_together(
    session: aiohttp.ClientSession, model: str, n_chunks: int, *, streams: int, requests: int = 1, stream: bool
) -> list[Answer]:
    """`requests` after each other in each of `streams` at the same time. Raises what the first that fails does."""

    async def one_stream() -> list[Answer]:
        return [await ask(session, model, n_chunks, stream=stream) for _ in range(requests)]

    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(one_stream()) for _ in range(streams)]
    except ExceptionGroup as failed:
        raise failed.exceptions[0] from failed
    return [answer for task in tasks for answer in task.result()]


def check(answers: Sequence[Answer], n_chunks: int, *, stream: bool) -> None:
    """Raises `RuntimeError` unless every answer says all that the upstream said, in as many chunks."""
    for answer in answers:
        said = words_of(answer.data) if stream else [_whole_text(answer.data)]
        if "".join(said) != story.text(n_chunks):
            raise RuntimeError(f"an answer of {len(said)} chunks is not what the upstream sent in {n_chunks}")
        if stream and len(said) != n_chunks:
            raise RuntimeError(f"{n_chunks} chunks arrived as {len(said)}")


def words_of(data: bytes) -> list[str]:
    """What each chunk of a stream says, where it says something."""
    words = []
    for event in data.split(b"\n\n"):
        if event.startswith(b"data: {"):
            parsed: dict[str, Any] = orjson.loads(event.removeprefix(b"data: "))
            words += [choice["delta"].get("content") for choice in parsed.get("choices") or ()]
    return [word for word in words if word]


def _whole_text(data: bytes) -> str:
    return str(orjson.loads(data)["choices"][0]["message"]["content"])
