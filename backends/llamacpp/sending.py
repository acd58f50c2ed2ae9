"""Answers on their way to a client: whole as one JSON body, or as server-sent events while they are written."""

from __future__ import annotations

from contextlib import aclosing

import orjson
from aiohttp import web

from backends.llamacpp.choices import Choices
from backends.llamacpp.generation import Delta, Finish
from backends.llamacpp.reasoning import Channel
from backends.llamacpp.requests import ApiError
from backends.llamacpp.responses import DONE, Shape, Whole, event


async def send_whole(choices: Choices, shape: Shape) -> web.Response:
    """Raises `ApiError` 500 where one of the choices could not be finished, and `TooBusy`."""
    answers = [Whole() for _ in choices.generations]
    async with aclosing(choices.engine.generate(choices.generations)) as news:
        async for index, delta in news:
            for channel, said in choices.take(index, delta):
                answers[index].add(channel, said)
            if (logprobs := choices.logprobs(index, delta)) is not None:
                answers[index].logprobs.append(logprobs)
    if Finish.ERROR in choices.finishes:
        raise ApiError(500, choices.failure, code="engine_failed")
    shown = choices.shown()
    reasons = [choices.finish_reason(index) for index in shown]
    body = shape.whole([answers[index] for index in shown], reasons, choices.usage())
    return web.Response(body=orjson.dumps(body), content_type="application/json")


async def send_stream(request: web.Request, choices: Choices, shape: Shape, *, with_usage: bool) -> web.StreamResponse:
    """One write per step and choice, always closed by `[DONE]`. Raises `TooBusy` before anything is sent."""
    response = web.StreamResponse(
        headers={"Content-Type": "text/event-stream; charset=utf-8", "Cache-Control": "no-cache"}
    )
    opened = False
    async with aclosing(choices.engine.generate(choices.generations)) as news:
        async for index, delta in news:
            out = _chunks(choices, shape, index, delta)
            if not opened:
                await response.prepare(request)
                out = b"".join(shape.opening(i) for i in range(len(choices.generations))) + out
                opened = True
            if out:
                await response.write(out)
    await response.write((shape.usage(choices.usage()) if with_usage else b"") + DONE)
    await response.write_eof()
    return response


def _chunks(choices: Choices, shape: Shape, index: int, delta: Delta) -> bytes:
    """A delta's text, and its logprobs in the first chunk there is of it: a token whose text is held back has one."""
    pieces = choices.take(index, delta)
    logprobs = choices.logprobs(index, delta)
    out = b""
    for channel, said in pieces:
        out += shape.piece(index, channel, said, logprobs)
        logprobs = None
    if delta.finish is Finish.ERROR:
        return out + event(ApiError(500, choices.failure, code="engine_failed").body())
    if delta.finish is not None:
        return out + shape.closing(index, choices.finish_reason(index), logprobs)
    return out + (shape.piece(index, Channel.CONTENT, "", logprobs) if logprobs else b"")
