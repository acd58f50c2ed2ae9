"""What a fake engine can suffer, and when.

    kind           what happens
    exit           the process ends with `code`
    kill           by SIGKILL
    stop           by SIGSTOP: nothing answers until SIGCONT, which also disarms it
    hang           nothing is said any more while it is armed, `/health` and `/tokenize` go on; disarmed, it goes on too
    error_500      500 in vLLM's shape, for an answer of which nothing was sent
    error_event    vLLM's last words when its core dies: the error, `[DONE]`, `/health` 503, and exit code 0 after
                   `exit_after_s` (null: it stays); the error is a plain 500 where nothing was sent
    repeat         an error of status `code` that is made of nothing but what was asked, as JSON or as an event
    print          what was asked is printed as the message of an exception; nothing else happens
    garbage        bytes that are neither JSON nor an event, and the connection closes
    cut            the connection closes inside an event
    slow           each word takes `s` seconds more while it is armed
    slow_start     `/health` is 503 for `s` seconds from now on
    exit_at_load   ends with `code` before it listens (at start only)
    none           disarms

A fault strikes every answer once `after_words` words of it were sent; before the first byte at 0, or behind the head
of the stream with `after_role`. An answer in one piece it strikes before it is sent. With `asked` it strikes only those
who ask something that holds these words.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
import time
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Final

from aiohttp import web

KINDS: Final = frozenset(
    {
        "none",
        "exit",
        "kill",
        "stop",
        "hang",
        "error_500",
        "error_event",
        "repeat",
        "print",
        "garbage",
        "cut",
        "slow",
        "slow_start",
        "exit_at_load",
    }
)
_ERROR: Final = {
    "error": {
        "message": "EngineCore encountered an issue. See stack trace (above) for the root cause.",
        "type": "InternalServerError",
        "param": None,
        "code": 500,
    }
}


@dataclass(frozen=True, slots=True)
class Fault:
    kind: str = "none"
    after_words: int = 0
    after_role: bool = False
    asked: str = ""
    code: int = 1
    s: float = 1.0
    exit_after_s: float | None = 3.0

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ValueError(f"a fault is one of: {', '.join(sorted(KINDS))}")


@dataclass(slots=True)
class Faults:
    """The one that is armed, and what is left of those that struck. `n_steps`: words made since the start."""

    fault: Fault = Fault()
    n_steps: int = 0
    is_dead: bool = False
    load_began: float = 0.0
    load_s: float = 0.0
    changed: asyncio.Event = field(default_factory=asyncio.Event)

    def arm(self, fault: Fault) -> None:
        self.fault = fault
        if fault.kind == "slow_start":
            self.load_began, self.load_s = time.monotonic(), fault.s
        self.changed.set()
        self.changed = asyncio.Event()

    def load_progress(self) -> float:
        if self.load_s <= 0:
            return 1.0
        return min((time.monotonic() - self.load_began) / self.load_s, 1.0)


FAULTS: web.AppKey[Faults] = web.AppKey("faults", Faults)


def leave(code: int) -> None:
    """End at once with `code`, or by the signal that it is minus of."""
    if code < 0:
        os.kill(os.getpid(), -code)
    os._exit(code)


async def arm(request: web.Request) -> web.Response:
    """`POST /_fault`: a `Fault` as JSON."""
    try:
        fault = Fault(**await request.json())
    except (TypeError, ValueError) as error:
        return web.json_response({"error": str(error)}, status=400)
    if fault.kind == "exit_at_load":
        return web.json_response({"error": "exit_at_load is for the start"}, status=400)
    request.app[FAULTS].arm(fault)
    return web.json_response({"armed": fault.kind})


async def strike(request: web.Request, stream: web.StreamResponse, *, n_words: int | None) -> web.StreamResponse | None:
    """Suffer what is armed, with `n_words` words sent on `stream`, None for an answer in one piece.

    Returns the answer's end, or None where it goes on.
    """
    faults = request.app[FAULTS]
    fault = faults.fault
    is_head = not stream.prepared
    if faults.is_dead:
        return await _die(request, stream, None)
    if fault.asked not in await request.text():
        return None
    if fault.kind == "error_500":
        return web.json_response(_ERROR, status=500) if is_head else None
    if n_words is not None and (n_words < fault.after_words or (is_head and fault.after_role)):
        return None
    match fault.kind:
        case "exit":
            leave(fault.code)
        case "kill":
            leave(-signal.SIGKILL)
        case "stop":
            faults.arm(Fault())
            os.kill(os.getpid(), signal.SIGSTOP)
        case "hang":
            await faults.changed.wait()
            return await strike(request, stream, n_words=n_words)
        case "slow":
            with suppress(TimeoutError):
                async with asyncio.timeout(fault.s):
                    await faults.changed.wait()
        case "error_event":
            return await _die(request, stream, fault.exit_after_s)
        case "repeat":
            return await _repeat(request, stream, fault.code)
        case "print":
            print(f"ValueError: {await request.text()}", file=sys.stderr, flush=True)
        case "garbage":
            return await _break_off(request, stream, b"\xff\xfe\x00 what is this?\n\n")
        case "cut":
            return await _break_off(request, stream, (b"" if n_words is None else b"data: ") + b'{"id": "chatc')
        case _:  # nothing that strikes an answer
            pass
    return None


async def _die(request: web.Request, stream: web.StreamResponse, exit_after_s: float | None) -> web.StreamResponse:
    """As vLLM does when its core has died; its server ends a little later."""
    faults = request.app[FAULTS]
    if exit_after_s is not None and not faults.is_dead:
        asyncio.get_running_loop().call_later(exit_after_s, leave, 0)
    faults.is_dead = True
    if not stream.prepared:
        return web.json_response(_ERROR, status=500)
    await stream.write(f"data: {json.dumps(_ERROR)}\n\ndata: [DONE]\n\n".encode())
    return stream


async def _repeat(request: web.Request, stream: web.StreamResponse, status: int) -> web.StreamResponse:
    asked = json.dumps(await request.json(), ensure_ascii=False)
    error = {"error": dict.fromkeys(("message", "type", "param", "code"), asked)}
    if not stream.prepared:
        return web.json_response(error, status=status)
    error["error"]["code"] = status  # type: ignore[assignment]  # as vLLM has it in events
    await stream.write(f"data: {json.dumps(error)}\n\ndata: [DONE]\n\n".encode())
    return stream


async def _break_off(request: web.Request, stream: web.StreamResponse, last: bytes) -> web.StreamResponse:
    if not stream.prepared:
        await stream.prepare(request)
    await stream.write(last)
    if request.transport is not None:
        request.transport.close()
    return stream
