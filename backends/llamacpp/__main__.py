"""`python -m backends.llamacpp --model FILE`: one GGUF over the OpenAI API.

A model that cannot be loaded, and an engine that breaks later, end the process with status 3 and one line on stderr,
`ENGINE_FAILURE {"reason": …, "detail": …}`.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import sys
from typing import Final

import orjson
import structlog
from aiohttp import web

from backends import quiet_logging
from backends.base import EngineFailure, FailureReason
from backends.llamacpp import native
from backends.llamacpp.engine import LlamaEngine
from backends.llamacpp.options import WorkerOptions, parse
from backends.llamacpp.server import make_app

FAILURE_EXIT_STATUS: Final = 3
SHUTDOWN_S: Final = 2.0


def report(failure: EngineFailure) -> None:
    line = orjson.dumps({"reason": failure.reason, "detail": failure.detail}).decode()
    print(f"ENGINE_FAILURE {line}", file=sys.stderr, flush=True)


async def run(options: WorkerOptions) -> int:
    """Serve until told to stop; returns the exit status."""
    engine = LlamaEngine(options)
    stop = asyncio.Event()
    quiet_logging.quiet_loop(asyncio.get_running_loop())
    for signal_ in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(signal_, stop.set)
    runner = web.AppRunner(
        make_app(engine, options),
        access_log=None,
        handler_cancellation=True,
        shutdown_timeout=SHUTDOWN_S,
    )
    await runner.setup()
    try:
        await _listen(runner, options)
        return await _serve(engine, stop)
    finally:
        await runner.cleanup()
        await engine.close()
        if options.uds is not None:
            options.uds.unlink(missing_ok=True)


async def _listen(runner: web.AppRunner, options: WorkerOptions) -> None:
    """Before the model is loaded: `/health` tells how far it is."""
    if options.uds is not None:
        options.uds.unlink(missing_ok=True)
        await web.UnixSite(runner, options.uds).start()
        options.uds.chmod(0o600)
    else:
        await web.TCPSite(runner, options.host, options.port).start()


async def _serve(engine: LlamaEngine, stop: asyncio.Event) -> int:
    loading = asyncio.create_task(engine.start())
    stopping = asyncio.create_task(stop.wait())
    breaking = asyncio.create_task(engine.failed.wait())
    try:
        await asyncio.wait({loading, stopping}, return_when=asyncio.FIRST_COMPLETED)
        if not stop.is_set():
            with contextlib.suppress(EngineFailure):  # reported below, as any later one
                await loading
            await asyncio.wait({stopping, breaking}, return_when=asyncio.FIRST_COMPLETED)
        if engine.failure is not None:
            report(engine.failure)
            return FAILURE_EXIT_STATUS
        return 0
    finally:
        for task in (loading, stopping, breaking):
            task.cancel()
        await asyncio.gather(loading, stopping, breaking, return_exceptions=True)


def _report_abort(message: str) -> None:
    report(EngineFailure(FailureReason.CRASHED, f"llama.cpp gave up: {message}"))
    os._exit(FAILURE_EXIT_STATUS)


def main() -> None:
    options = parse()
    quiet_logging.set_up(logging.INFO, [structlog.processors.JSONRenderer()])
    native.on_abort(_report_abort)
    try:
        status = asyncio.run(run(options))
    except OSError as error:
        report(EngineFailure(FailureReason.INVALID_SETTINGS, f"cannot listen: {error.strerror or error}"))
        status = FAILURE_EXIT_STATUS
    sys.exit(status)


if __name__ == "__main__":
    main()
