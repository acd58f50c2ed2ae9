"""An engine that computes nothing and fails on demand: `python -m tests.backends.fake_engine --uds PATH [faults]`.

It answers `/health`, `/v1/models`, `/v1/completions` and `/v1/chat/completions` (streamed or not) as vLLM does, each
word of its one sentence being a token. With FAKE_ENGINE_KEY in the environment, `/v1` wants that bearer key.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from aiohttp import web

WORDS = ("The", " capital", " of", " France", " is", " Paris", ".")
ARGUMENTS: web.AppKey[argparse.Namespace] = web.AppKey("arguments", argparse.Namespace)
BEGAN: web.AppKey[float] = web.AppKey("began", float)


def command(*flags: str) -> tuple[str, ...]:
    """The argv of a fake engine."""
    return (sys.executable, "-m", "tests.backends.fake_engine", *flags)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    parser.add_argument("--uds")
    parser.add_argument("--port", type=int)
    parser.add_argument("--model", default="fake")
    parser.add_argument("--print-before", help="printed to standard error before anything else")
    parser.add_argument("--tell", type=Path, help="FIFO that gets its own pid and its grandchild's")
    parser.add_argument("--load-s", type=float, default=0.0, help="/health is 503 with progress for so long")
    parser.add_argument("--health-503-forever", action="store_true")
    parser.add_argument("--exit-at-load", type=int, help="exit code, or minus a signal to die by")
    parser.add_argument("--exit-at-first-request", type=int)
    parser.add_argument("--die-after-s", type=float, help="end with exit code 0 so long after it listens")
    parser.add_argument("--ignore-sigterm", action="store_true")
    parser.add_argument("--spawn-grandchild", action="store_true", help="in a session of its own")
    return parser.parse_args()


def _leave(code: int) -> None:
    if code < 0:
        os.kill(os.getpid(), -code)
    os._exit(code)


def _misbehave(arguments: argparse.Namespace) -> None:
    if arguments.print_before:
        print(arguments.print_before, file=sys.stderr, flush=True)
    if arguments.ignore_sigterm:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    pids = [os.getpid()]
    if arguments.spawn_grandchild:
        pids.append(subprocess.Popen(["sleep", "1000"], start_new_session=True).pid)
    if arguments.tell:
        arguments.tell.write_text(" ".join(map(str, pids)))
    if arguments.exit_at_load is not None:
        _leave(arguments.exit_at_load)


@web.middleware
async def _want_key(request: web.Request, handler: Any) -> web.StreamResponse:
    key = os.environ.get("FAKE_ENGINE_KEY")
    if key and request.path.startswith("/v1") and request.headers.get("Authorization") != f"Bearer {key}":
        return web.json_response({"error": "Unauthorized"}, status=401)
    response: web.StreamResponse = await handler(request)
    return response


async def _health(request: web.Request) -> web.Response:
    arguments = request.app[ARGUMENTS]
    loaded_s = time.monotonic() - request.app[BEGAN]
    if arguments.health_503_forever:
        return web.json_response({"status": "loading", "progress": 0.5}, status=503)
    if loaded_s < arguments.load_s:
        return web.json_response({"status": "loading", "progress": loaded_s / arguments.load_s}, status=503)
    return web.json_response({"status": "ok"})


async def _models(request: web.Request) -> web.Response:
    model = {"id": request.app[ARGUMENTS].model, "object": "model", "max_model_len": 2048}
    return web.json_response({"object": "list", "data": [model]})


async def _completions(request: web.Request) -> web.Response:
    if (code := request.app[ARGUMENTS].exit_at_first_request) is not None:
        _leave(code)
    words, finish_reason, usage = _answer(await request.json())
    choice = {"index": 0, "text": "".join(words), "finish_reason": finish_reason}
    return web.json_response({"id": "cmpl-1", "object": "text_completion", "choices": [choice], "usage": usage})


async def _chat(request: web.Request) -> web.StreamResponse:
    body = await request.json()
    words, finish_reason, usage = _answer(body)
    head = {"id": "chatcmpl-1", "created": 1, "model": request.app[ARGUMENTS].model}
    if not body.get("stream"):
        message = {"role": "assistant", "content": "".join(words)}
        choice = {"index": 0, "message": message, "finish_reason": finish_reason}
        return web.json_response({**head, "object": "chat.completion", "choices": [choice], "usage": usage})
    head["object"] = "chat.completion.chunk"
    deltas = [{"role": "assistant", "content": ""}, *({"content": word} for word in words)]
    events: list[dict[str, Any]] = [{"choices": [{"index": 0, "delta": delta}]} for delta in deltas]
    events.append({"choices": [{"index": 0, "delta": {}, "finish_reason": finish_reason}]})
    if (body.get("stream_options") or {}).get("include_usage"):
        events.append({"choices": [], "usage": usage})
    stream = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
    await stream.prepare(request)
    for event in events:
        await stream.write(f"data: {json.dumps(head | event)}\n\n".encode())
    await stream.write(b"data: [DONE]\n\n")
    return stream


def _answer(body: dict[str, Any]) -> tuple[tuple[str, ...], str, dict[str, int]]:
    words = WORDS[: body.get("max_tokens", len(WORDS))]
    usage = {"prompt_tokens": 8, "completion_tokens": len(words), "total_tokens": 8 + len(words)}
    return words, "stop" if words == WORDS else "length", usage


async def _begin(app: web.Application) -> None:
    app[BEGAN] = time.monotonic()
    if (after_s := app[ARGUMENTS].die_after_s) is not None:
        asyncio.get_running_loop().call_later(after_s, _leave, 0)


def main() -> None:
    arguments = _arguments()
    _misbehave(arguments)
    app = web.Application(middlewares=[_want_key])
    app[ARGUMENTS] = arguments
    app.on_startup.append(_begin)
    app.add_routes(
        [
            web.get("/health", _health),
            web.get("/v1/models", _models),
            web.post("/v1/completions", _completions),
            web.post("/v1/chat/completions", _chat),
        ]
    )
    where = {"path": arguments.uds} if arguments.uds else {"host": "127.0.0.1", "port": arguments.port}
    web.run_app(app, **where, print=None, handle_signals=not arguments.ignore_sigterm)


if __name__ == "__main__":
    main()
