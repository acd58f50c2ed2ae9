"""An engine that computes nothing and fails on demand: `python -m tests.backends.fake_engine --uds PATH [faults]`.

It answers `/health`, `/v1/models`, `/metrics`, `/tokenize`, `/v1/completions` and `/v1/chat/completions` (streamed or
not) as vLLM does, each word of its one answer being a token. With FAKE_ENGINE_KEY in the environment, `/v1` wants that
bearer key. The answer is always the same, so that a word which is lost or doubled is seen; a continued one goes on
behind the words that are there. `--fault JSON` arms one of the faults of `tests.backends.fake_faults`, and
`POST /_fault` with such an object does so while it runs.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aiohttp import web

from tests.backends.fake_faults import FAULTS, Fault, Faults, arm, leave, strike

WORDS = ("The", " capital", " of", " France", " is", " Paris", ".")
SHUTDOWN_S = 0.5  # for answers that hang
ARGUMENTS: web.AppKey[argparse.Namespace] = web.AppKey("arguments", argparse.Namespace)


def command(*flags: str) -> tuple[str, ...]:
    """The argv of a fake engine."""
    return (sys.executable, "-m", "tests.backends.fake_engine", *flags)


def numbered(letter: str, n_words: int) -> tuple[str, ...]:
    """`w1 w2 w3` in words that keep their space."""
    return tuple(f"{' ' if i > 1 else ''}{letter}{i}" for i in range(1, n_words + 1))


def read_arguments(flags: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    parser.add_argument("--uds")
    parser.add_argument("--port", type=int)
    parser.add_argument("--model", default="fake")
    parser.add_argument("--answer-words", type=int, help="answer so many numbered words: w1 w2 w3")
    parser.add_argument("--reasoning-words", type=int, default=0, help="think so many before a chat's answer: r1 r2")
    parser.add_argument("--token-s", type=float, default=0.0, help="pause before each word")
    parser.add_argument("--print-before", help="printed to standard error before anything else")
    parser.add_argument("--tell", type=Path, help="FIFO that gets its own pid and its grandchild's")
    parser.add_argument("--traces", type=Path, help="file that gets a line with each request's traceparent")
    parser.add_argument("--metrics", type=Path, help="file whose text /metrics tells as well; missing: 404")
    parser.add_argument("--load-s", type=float, default=0.0, help="/health is 503 with progress for so long")
    parser.add_argument("--health-503-forever", action="store_true")
    parser.add_argument("--exit-at-load", type=int, help="exit code, or minus a signal to die by")
    parser.add_argument("--exit-at-first-request", type=int)
    parser.add_argument("--die-after-s", type=float, help="end with exit code 0 so long after it listens")
    parser.add_argument("--ignore-sigterm", action="store_true")
    parser.add_argument("--spawn-grandchild", action="store_true", help="in a session of its own")
    parser.add_argument("--fault", type=lambda text: Fault(**json.loads(text)), default=Fault(), help="armed at start")
    return parser.parse_args(flags)


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
        leave(arguments.exit_at_load)
    if arguments.fault.kind == "exit_at_load":
        leave(arguments.fault.code)


@web.middleware
async def _want_key(request: web.Request, handler: Any) -> web.StreamResponse:
    key = os.environ.get("FAKE_ENGINE_KEY")
    if key and request.path.startswith("/v1") and request.headers.get("Authorization") != f"Bearer {key}":
        return web.json_response({"error": "Unauthorized"}, status=401)
    response: web.StreamResponse = await handler(request)
    return response


async def _health(request: web.Request) -> web.Response:
    arguments, faults = request.app[ARGUMENTS], request.app[FAULTS]
    if faults.is_dead:
        return web.Response(status=503)
    if arguments.health_503_forever:
        return web.json_response({"status": "loading", "progress": 0.5}, status=503)
    if (progress := faults.load_progress()) < 1:
        return web.json_response({"status": "loading", "progress": progress}, status=503)
    return web.json_response({"status": "ok"})


async def _models(request: web.Request) -> web.Response:
    model = {"id": request.app[ARGUMENTS].model, "object": "model", "max_model_len": 2048}
    return web.json_response({"object": "list", "data": [model]})


async def _metrics(request: web.Request) -> web.Response:
    more = request.app[ARGUMENTS].metrics
    if more and not more.exists():
        return web.Response(status=404)
    head = "# HELP fake_steps_total Words made\n# TYPE fake_steps_total counter\n"
    text = f"{head}fake_steps_total {request.app[FAULTS].n_steps}\n"
    return web.Response(body=text.encode() + (more.read_bytes() if more else b""))


async def _tokenize(request: web.Request) -> web.Response:
    n_tokens = _n_prompt_tokens(await request.json())
    tokens = list(range(n_tokens))
    return web.json_response({"count": n_tokens, "max_model_len": 2048, "tokens": tokens, "token_strs": None})


@dataclass(frozen=True, slots=True)
class Answer:
    """What is left to say of an answer: (channel, word), a thought before the content."""

    words: tuple[tuple[str, str], ...]
    finish_reason: str
    usage: dict[str, int]
    is_chat: bool

    def choice(self, channel: str, word: str) -> dict[str, Any]:
        """Of an event of the stream."""
        said = {"delta": {channel: word} if word else {}} if self.is_chat else {"text": word}
        return {"index": 0, **said, "finish_reason": None if word else self.finish_reason}

    def whole_choice(self) -> dict[str, Any]:
        text = {
            key: "".join(word for channel, word in self.words if channel == key) for key in ("reasoning", "content")
        }
        message = {"role": "assistant", **{key: said or None for key, said in text.items()}}
        said = {"message": message} if self.is_chat else {"text": text["content"]}
        return {"index": 0, **said, "finish_reason": self.finish_reason}


def _answer(arguments: argparse.Namespace, body: dict[str, Any], *, is_chat: bool) -> Answer:
    content = WORDS if arguments.answer_words is None else numbered("w", arguments.answer_words)
    reasoning = numbered("r", arguments.reasoning_words if is_chat else 0)
    if not is_chat:
        content = content[_n_said(content, str(body.get("prompt")), str.endswith) :]
    elif body.get("continue_final_message"):
        final = body["messages"][-1]
        said, thought = final.get("content") or "", final.get("reasoning_content") or ""
        reasoning = () if said else reasoning[_n_said(reasoning, thought, str.startswith) :]
        content = content[_n_said(content, said, str.startswith) :]
    words = (*(("reasoning", word) for word in reasoning), *(("content", word) for word in content))
    shown = words[: body.get("max_tokens") or len(words)]
    n_prompt, n_new = _n_prompt_tokens(body), len(shown)
    usage = {"prompt_tokens": n_prompt, "completion_tokens": n_new, "total_tokens": n_prompt + n_new}
    return Answer(shown, "stop" if shown == words else "length", usage, is_chat)


def _n_said(words: Sequence[str], text: str, has: Callable[[str, str], bool]) -> int:
    """How many of `words` a text begins with (`has` is `str.startswith`), or ends with."""
    return max(n for n in range(len(words) + 1) if has(text, "".join(words[:n])))


def _n_prompt_tokens(body: dict[str, Any]) -> int:
    texts = [str(body.get("prompt") or "")]
    for message in body.get("messages") or ():
        texts += [str(message.get("content") or ""), str(message.get("reasoning_content") or "")]
    return sum(len(re.findall(r"\w+|[^\w\s]", text)) for text in texts)


async def _completions(request: web.Request) -> web.StreamResponse:
    if (code := request.app[ARGUMENTS].exit_at_first_request) is not None:
        leave(code)
    return await _say(request, is_chat=False)


async def _chat(request: web.Request) -> web.StreamResponse:
    return await _say(request, is_chat=True)


async def _say(request: web.Request, *, is_chat: bool) -> web.StreamResponse:
    arguments, body = request.app[ARGUMENTS], await request.json()
    if arguments.traces is not None:
        with arguments.traces.open("a") as traces:
            traces.write(request.headers.get("traceparent", "") + "\n")
    answer = _answer(arguments, body, is_chat=is_chat)
    kind = "text_completion" if not is_chat else "chat.completion.chunk" if body.get("stream") else "chat.completion"
    id_ = "chatcmpl-1" if is_chat else "cmpl-1"
    head = {"id": id_, "object": kind, "created": 1, "model": arguments.model}
    if body.get("stream"):
        with_usage = bool((body.get("stream_options") or {}).get("include_usage"))
        return await _stream(request, answer, head, with_usage=with_usage)
    failing = web.StreamResponse(headers={"Content-Type": "application/json"})
    for _ in answer.words:
        if (end := await _make_word(request, failing, n_words=None)) is not None:
            return end
    return web.json_response({**head, "choices": [answer.whole_choice()], "usage": answer.usage})


async def _stream(
    request: web.Request, answer: Answer, head: dict[str, Any], *, with_usage: bool
) -> web.StreamResponse:
    stream = web.StreamResponse(headers={"Content-Type": "text/event-stream"})

    async def send(**fields: Any) -> None:
        await stream.write(f"data: {json.dumps(head | fields)}\n\n".encode())

    if (end := await strike(request, stream, n_words=0)) is not None:
        return end
    await stream.prepare(request)
    if answer.is_chat:
        await send(choices=[{"index": 0, "delta": {"role": "assistant", "content": ""}, "finish_reason": None}])
    for n_words, (channel, word) in enumerate(answer.words):
        if (end := await _make_word(request, stream, n_words=n_words)) is not None:
            return end
        await send(choices=[answer.choice(channel, word)])
    if (end := await strike(request, stream, n_words=len(answer.words))) is not None:
        return end
    await send(choices=[answer.choice("content", "")])
    if with_usage:
        await send(choices=[], usage=answer.usage)
    await stream.write(b"data: [DONE]\n\n")
    return stream


async def _make_word(
    request: web.Request, stream: web.StreamResponse, *, n_words: int | None
) -> web.StreamResponse | None:
    """One step, in the time it takes; the end of the answer where a fault strikes instead."""
    await asyncio.sleep(request.app[ARGUMENTS].token_s)
    end = await strike(request, stream, n_words=n_words)
    request.app[FAULTS].n_steps += end is None
    return end


async def _begin(app: web.Application) -> None:
    arguments, faults = app[ARGUMENTS], app[FAULTS]
    faults.load_began, faults.load_s = time.monotonic(), arguments.load_s
    faults.arm(arguments.fault)
    if arguments.die_after_s is not None:
        asyncio.get_running_loop().call_later(arguments.die_after_s, leave, 0)


def make_app(arguments: argparse.Namespace) -> web.Application:
    """Also for a test's own process, where nothing may be armed that ends the engine."""
    app = web.Application(middlewares=[_want_key], client_max_size=64 << 20)
    app[ARGUMENTS] = arguments
    app[FAULTS] = Faults()
    app.on_startup.append(_begin)
    app.add_routes(
        [
            web.get("/health", _health),
            web.get("/metrics", _metrics),
            web.get("/v1/models", _models),
            web.post("/tokenize", _tokenize),
            web.post("/v1/completions", _completions),
            web.post("/v1/chat/completions", _chat),
            web.post("/_fault", arm),
        ]
    )
    return app


def main() -> None:
    arguments = read_arguments()
    _misbehave(arguments)
    app = make_app(arguments)
    where = {"path": arguments.uds} if arguments.uds else {"host": "127.0.0.1", "port": arguments.port}
    web.run_app(
        app,
        **where,
        print=None,
        handle_signals=not arguments.ignore_sigterm,
        handler_cancellation=True,
        shutdown_timeout=SHUTDOWN_S,
    )


if __name__ == "__main__":
    main()
