"""Closed-loop load on one OpenAI-compatible server: N streams, each sending its next request after the last.

The server is a URL to this module. What differs between servers, such as how the end of text is suppressed,
is in `Target.extra_fields`, which go into every request as they are.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import aclosing
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, Final

import aiohttp
import orjson

from bench.workloads.prompts import prompt, shared_prompt

Clock = Callable[[], float]
_MAX_LINE_BYTES: Final = 16 * 1024 * 1024
_MOST_TOKENS: Final = 1 << 40


@dataclass(frozen=True, slots=True)
class Target:
    """`url` is `http://host:port`, or `unix:` and the path of a socket."""

    name: str
    url: str
    model: str
    key: str | None = field(default=None, repr=False)
    extra_fields: Mapping[str, object] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Workload:
    """`seed` decides the prompts: a server that has answered a seed may have its prefixes in a cache.

    `n_prompt` counts the part that differs, in tokens, nearly; `n_shared` is the length of the system prompt
    that all requests share. A sequence needs `n_shared + n_prompt + max_tokens` tokens of context, and the chat
    template's.
    """

    streams: int
    requests_per_stream: int = 2
    max_tokens: int = 128
    n_prompt: int = 119
    n_shared: int = 0
    chat: bool = False
    seed: str = "0"
    timeout_s: float = 600.0


@dataclass(slots=True)
class Request:
    """One request as the client saw it, in seconds of the clock.

    `chunk_s`: when chunks with text arrived, whose texts are `pieces`, thoughts included; `said` are those of the
    answer itself. `on_chunk` is called with each of them. `due_s` is when it should have been sent, where a plan
    said so; `engine` is what a gateway says of who answered.
    """

    sent_s: float
    due_s: float | None = None
    end_s: float = 0.0
    chunk_s: list[float] = field(default_factory=list)
    pieces: list[str] = field(default_factory=list)
    said: list[str] = field(default_factory=list)
    first_said_s: float | None = None
    on_chunk: Callable[[], None] | None = None
    usage: Mapping[str, Any] | None = None
    finish_reason: str | None = None
    engine: str | None = None
    error: str | None = None
    error_kind: str = "wrong_answer"

    def fail(self, kind: str, error: str) -> None:
        """`kind` is one word in snake case, the same for all errors of a kind, and tells nothing of the texts."""
        self.error_kind, self.error = kind, error

    @property
    def ttft_s(self) -> float:
        return self.chunk_s[0] - self.sent_s

    @property
    def text(self) -> str:
        return "".join(self.pieces)

    @property
    def answer(self) -> str:
        """The text without thoughts."""
        return "".join(self.said)

    @property
    def gaps_s(self) -> list[float]:
        return [later - earlier for earlier, later in pairwise(self.chunk_s)]

    @property
    def prompt_tokens(self) -> int:
        """0 where the server says nothing."""
        return int((self.usage or {}).get("prompt_tokens", 0))

    @property
    def cached_tokens(self) -> int:
        """Prompt tokens the server says it did not compute; 0 where it says nothing."""
        details = (self.usage or {}).get("prompt_tokens_details") or {}
        return int(details.get("cached_tokens") or 0)

    def output_tokens(self, max_tokens: int) -> int:
        """The server's count; without one, all of them if `length` ended it, else the chunks.

        Chunks alone count too few: a character made of several tokens arrives as one.
        """
        if self.usage is not None:
            return int(self.usage["completion_tokens"])
        return max_tokens if self.finish_reason == "length" else len(self.chunk_s)


def connect(target: Target) -> aiohttp.ClientSession:
    """A session without a limit on connections; deadlines are those of the requests.

    Each request has its own connection: llama-server closes one after a stream without having said so, and the
    next request on it is lost.
    """
    connector: aiohttp.BaseConnector
    if target.url.startswith("unix:"):
        connector = aiohttp.UnixConnector(target.url.removeprefix("unix:"), limit=0, force_close=True)
        base_url = "http://localhost"
    else:
        connector = aiohttp.TCPConnector(limit=0, force_close=True)
        base_url = target.url.rstrip("/").removesuffix("/v1")
    headers = {"Authorization": f"Bearer {target.key}"} if target.key else {}
    timeout = aiohttp.ClientTimeout(total=None)
    return aiohttp.ClientSession(base_url, connector=connector, headers=headers, timeout=timeout)


async def run_load(target: Target, workload: Workload, clock: Clock = time.perf_counter) -> list[Request]:
    """Every request of the load, stream by stream. What goes wrong with a request is in its `error`."""
    async with connect(target) as session, asyncio.TaskGroup() as streams:
        tasks = [
            streams.create_task(_run_stream(session, target, workload, stream, clock))
            for stream in range(workload.streams)
        ]
    return [request for task in tasks for request in task.result()]


async def _run_stream(
    session: aiohttp.ClientSession, target: Target, workload: Workload, stream: int, clock: Clock
) -> list[Request]:
    requests = []
    for turn in range(workload.requests_per_stream):
        body = request_body(target, workload, turn * workload.streams + stream)
        path = "/v1/chat/completions" if workload.chat else "/v1/completions"
        request = Request(sent_s=clock())
        await send(session, path, body, request, timeout_s=workload.timeout_s, clock=clock)
        if request.error is None:
            request.error = shortfall(request, workload.max_tokens)
        requests.append(request)
    return requests


async def send(
    session: aiohttp.ClientSession,
    path: str,
    body: Mapping[str, object],
    request: Request,
    *,
    timeout_s: float,
    clock: Clock = time.perf_counter,
) -> None:
    """One request to its end, noted in `request`; what goes wrong is its `error`."""
    try:
        async with asyncio.timeout(timeout_s):
            await _receive(session, path, body, request, clock)
    except TimeoutError:
        request.fail("timeout", f"no end after {timeout_s:g} s")
    except (aiohttp.ClientError, OSError) as exc:
        request.fail("connection", f"{type(exc).__name__}: {exc}")
    except ValueError as exc:
        request.fail("malformed", f"{type(exc).__name__}: {exc}")
    request.end_s = clock()


def request_body(target: Target, workload: Workload, index: int) -> dict[str, object]:
    text = prompt(workload.seed, index, workload.n_prompt)
    shared = shared_prompt(workload.n_shared) if workload.n_shared else ""
    body = stream_body(target, workload.max_tokens)
    if workload.chat:
        system = [{"role": "system", "content": shared}] if shared else []
        return {**body, "messages": [*system, {"role": "user", "content": text}]}
    return {**body, "prompt": f"{shared}\n\n{text}" if shared else text}


def stream_body(target: Target, max_tokens: int) -> dict[str, object]:
    """What every request has; the prompt is not in it."""
    return {
        "model": target.model,
        "max_tokens": max_tokens,
        "temperature": 0,
        "stream": True,
        "stream_options": {"include_usage": True},
        **target.extra_fields,
    }


async def _receive(
    session: aiohttp.ClientSession, path: str, body: Mapping[str, object], request: Request, clock: Clock
) -> None:
    """Send, and note each event in `request` as it arrives."""
    async with session.post(path, data=orjson.dumps(body), headers={"Content-Type": "application/json"}) as answer:
        if answer.status != 200:
            request.fail(f"http_{answer.status}", f"HTTP {answer.status}: {(await answer.text())[:200]}")
            return
        request.engine = answer.headers.get("x-engine")
        await _note_all(answer.content, request, clock)


async def _note_all(content: aiohttp.StreamReader, request: Request, clock: Clock) -> None:
    """Raises `ValueError` for what is no stream of completions."""
    async with aclosing(_events(content)) as events:
        async for event in events:
            try:
                _note(event, request, clock)
            except (AttributeError, TypeError) as exc:
                raise ValueError(f"an event that is not a completion's: {exc}") from exc


async def _events(content: aiohttp.StreamReader) -> AsyncGenerator[dict[str, Any], None]:
    pending = b""
    async for piece in content.iter_any():
        *lines, pending = (pending + piece).split(b"\n")
        if len(pending) > _MAX_LINE_BYTES:
            raise ValueError(f"a line of more than {_MAX_LINE_BYTES} bytes in the stream")
        for line in lines:
            data = line.removeprefix(b"data:").strip() if line.startswith(b"data:") else b""
            if data and data != b"[DONE]":
                yield orjson.loads(data)


def _note(event: dict[str, Any], request: Request, clock: Clock) -> None:
    if event.get("error"):
        request.fail("error_in_stream", f"in the stream: {event['error']}")
    if (usage := event.get("usage")) is not None:
        request.usage = _counts_checked(usage)
    for choice in event.get("choices") or ():
        said = choice.get("delta") or choice
        _note_text(
            request,
            thought=said.get("reasoning_content") or said.get("reasoning") or "",
            answer=said.get("text") or said.get("content") or "",
            clock=clock,
        )
        request.finish_reason = choice.get("finish_reason") or request.finish_reason


def _counts_checked(usage: Mapping[str, Any]) -> Mapping[str, Any]:
    details = usage.get("prompt_tokens_details") or {}
    counts = (usage.get("prompt_tokens", 0), usage.get("completion_tokens"), details.get("cached_tokens") or 0)
    if not all(isinstance(count, int) and 0 <= count <= _MOST_TOKENS for count in counts):
        raise ValueError(f"usage without whole numbers of tokens: {counts}"[:200])
    return usage


def _note_text(request: Request, *, thought: str, answer: str, clock: Clock) -> None:
    if not thought + answer:
        return
    now_s = clock()
    request.chunk_s.append(now_s)
    request.pieces.append(thought + answer)
    if answer:
        request.said.append(answer)
        request.first_said_s = now_s if request.first_said_s is None else request.first_said_s
    if request.on_chunk is not None:
        request.on_chunk()


def shortfall(request: Request, max_tokens: int) -> str | None:
    """Why a stream that ended in peace is not the one that was asked for."""
    n_output = request.output_tokens(max_tokens)
    if n_output != max_tokens or not request.chunk_s:
        return f"{n_output} tokens instead of {max_tokens}, finish_reason {request.finish_reason}"
    return None


async def first_model(target: Target) -> str:
    """The name of the model that the server lists first. Raises `aiohttp.ClientError`, `TimeoutError`."""
    async with asyncio.timeout(30), connect(target) as session:
        answer = await session.get("/v1/models", raise_for_status=True)
        return str((await answer.json())["data"][0]["id"])
