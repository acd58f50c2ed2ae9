"""The life of the server: keys, listeners, engines, and an end in which nobody's answer is cut without a word."""

from __future__ import annotations

import asyncio
import os
import shlex
import shutil
import signal
import sys
import tempfile
from collections.abc import Iterator
from contextlib import AsyncExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Final

import structlog

from backends.quiet_logging import quiet_loop
from gguf_server import config, engines, gpus, keys
from gguf_server.admission import Admission
from gguf_server.api.admin import AdminApi
from gguf_server.audit.secret import AuditError
from gguf_server.bookkeeping import keeping_books
from gguf_server.card_memory import Read
from gguf_server.chain import EngineChain
from gguf_server.gateway import Gateway
from gguf_server.keys import KeyRing, KeysError
from gguf_server.limits.configured import LimitsError, limiting
from gguf_server.listeners import Listeners, listening
from gguf_server.listening.tls import TlsError
from gguf_server.metrics.access import MetricsKey, MetricsKeyError, open_key
from gguf_server.metrics.listener import metrics_listening
from gguf_server.reload.lives import Lives
from gguf_server.reload.reloader import Reloader
from gguf_server.reload.roster import MakeChain, Roster
from gguf_server.reload.source import Source
from gguf_server.reload.watch import watch
from gguf_server.service import Service
from gguf_server.settings import ServiceSettings, Settings
from gguf_server.systemd import tell_ready, tell_stopping
from gguf_server.tracing_switch import TracingUnavailable, tracing

_LAST_WORDS_S: Final = 2.0  # for the error events of answers that the drain cut off

log = structlog.get_logger("server")


def serve(settings: Settings, source: Source) -> int:
    """Serve until told to stop, and go by what `source` says whenever that changes; returns the exit status."""
    try:
        keyring = open_keyring(settings)
        metrics_key = open_key(settings.metrics)
    except (KeysError, MetricsKeyError) as error:
        print(error, file=sys.stderr)
        return 2
    if keyring is None:
        print(
            f"{settings.server.host} is not a loopback address, and there is no key: anybody could come in.\n"
            "Make one first: gguf-server keys create NAME",
            file=sys.stderr,
        )
        return 2
    try:
        asyncio.run(_run(settings, keyring, metrics_key, source))
    except (AuditError, LimitsError, TracingUnavailable) as error:
        print(error, file=sys.stderr)
        return 2
    except OSError as error:
        print(f"cannot listen: {error.strerror or error}", file=sys.stderr)
        return 1
    except TlsError as error:
        print(error, file=sys.stderr)
        return 2
    return 0


def open_keyring(settings: Settings) -> KeyRing | None:
    """The keys this server knows. On a loopback address the first start makes one; elsewhere None means "refuse"."""
    keyring = read_keyring(settings)
    if keyring.has_keys:
        return keyring
    if not config.is_loopback(settings.server.host):
        return None
    path = settings.server.keys_file or keys.default_path()
    _, token = keys.create(path, "first")
    _print_first_key(settings, path, token)
    return read_keyring(settings)


def read_keyring(settings: Settings) -> KeyRing:
    """The keys of the file and of the environment. Raises `KeysError`."""
    users, admins = (
        keys.tokens_in(os.environ.get(name, "")) for name in (config.KEYS_VARIABLE, config.ADMIN_KEYS_VARIABLE)
    )
    return KeyRing(settings.server.keys_file or keys.default_path(), users, admins)


def _print_first_key(settings: Settings, path: Path, token: str) -> None:
    """Shown once: only its hash is kept."""
    service = next(iter(settings.services.values()))
    scheme = "https" if settings.tls.is_on else "http"
    url = f"{scheme}://{settings.server.host}:{settings.server.port}{service.paths[0]}/v1/chat/completions"
    body = shlex.quote('{"messages": [{"role": "user", "content": "Hello! Who are you?"}]}')
    print(
        f"A first API key was made; it is shown this once, {path} keeps its hash:\n\n    {token}\n\n"
        "When the model is loaded, this line chats with it:\n\n"
        f"    curl {url} -H 'Authorization: Bearer {token}' -H 'Content-Type: application/json' -d {body}\n",
        file=sys.stderr,
        flush=True,
    )


async def _run(settings: Settings, keyring: KeyRing, metrics_key: MetricsKey | None, source: Source) -> None:
    stop = asyncio.Event()
    quiet_loop(asyncio.get_running_loop())
    async with AsyncExitStack() as opened:
        limiter = await opened.enter_async_context(limiting(settings.limits))
        traces = await opened.enter_async_context(tracing(settings.tracing))
        runtime_dir = opened.enter_context(_runtime_dir())
        read_cards = gpus.read if gpus.read() is not None else None
        make_chain = partial(_chain, runtime_dir, read_cards)
        services = {
            name: Service(name, of, make_chain(name, of), Admission(of.max_concurrent, of.max_queue))
            for name, of in settings.services.items()
        }
        gateway = Gateway(settings, keyring, services, metrics_key=metrics_key, tracing=traces, limiter=limiter)
        for signal_ in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(signal_, stop.set)
        async with (
            keeping_books(gateway),
            listening(gateway) as listeners,
            metrics_listening(gateway),
            asyncio.TaskGroup() as owners,
        ):
            lives = Lives(owners)
            reloader = _govern(gateway, listeners, lives, make_chain, source, has_cards=read_cards is not None)
            hangup = partial(_hang_up, reloader, stop, was_on_terminal=os.isatty(0))
            asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, hangup)
            tell_ready(len(services))
            await stop.wait()
            tell_stopping(gateway.settings.server.drain_s)
            stop.clear()
            every = [*gateway.services.values(), *gateway.retiring]
            await drain(every, gateway.settings.server.drain_s, hurry=stop)
            lives.cancel()


def _govern(
    gateway: Gateway,
    listeners: Listeners,
    lives: Lives,
    make_chain: MakeChain,
    source: Source,
    *,
    has_cards: bool,
) -> Reloader:
    """Start the engines, and let files and admins change what the server is."""
    roster = Roster(gateway, lives, make_chain, listeners.update)
    reloader = Reloader(gateway, roster, listeners, load=source.load, open_keyring=read_keyring, has_cards=has_cards)
    gateway.shared_routes += AdminApi(gateway, roster, reloader).routes()
    listeners.update()
    roster.start()
    _ = lives.begin(reloader.run(), "reloads")

    def file_changed() -> None:
        if gateway.settings.server.watch:
            reloader.ask("file change")

    _ = lives.begin(watch(lambda: source.files(gateway.settings), file_changed), "watch of files")
    return reloader


def _hang_up(reloader: Reloader, stop: asyncio.Event, *, was_on_terminal: bool) -> None:
    """A SIGHUP: go by the configuration as it is now, or end with the terminal that was closed."""
    if was_on_terminal and not os.isatty(0):
        stop.set()
    else:
        reloader.ask("SIGHUP")


def _chain(
    runtime_dir: Path, read_cards: Read | None, name: str, settings: ServiceSettings, *, is_awaited: bool = False
) -> EngineChain:
    return EngineChain(
        name,
        engines.build(settings, runtime_dir),
        warm_standby=settings.standby == "warm",
        settings=settings.failover,
        read_cards=read_cards,
        forecasts=engines.forecasts(settings, runtime_dir, read_cards),
        model=settings.model,
        is_awaited=is_awaited,
    )


async def drain(services: list[Service], limit_s: float, *, hurry: asyncio.Event) -> None:
    """Let running answers finish for `limit_s`, or until `hurry` (a second signal); then end each with an error."""
    for service in services:
        service.draining = True
    log.info("draining", in_flight=sum(service.n_in_flight for service in services), limit_s=limit_s)
    all_idle = asyncio.create_task(_all_idle(services))
    hurried = asyncio.create_task(hurry.wait())
    try:
        await asyncio.wait([all_idle, hurried], timeout=limit_s, return_when=asyncio.FIRST_COMPLETED)
        for service in services:
            service.cut_off()
        await asyncio.wait([all_idle], timeout=_LAST_WORDS_S)
    finally:
        for task in (all_idle, hurried):
            task.cancel()
        await asyncio.gather(all_idle, hurried, return_exceptions=True)


async def _all_idle(services: list[Service]) -> None:
    for service in services:
        await service.idle.wait()


@contextmanager
def _runtime_dir() -> Iterator[Path]:
    """A folder for the engines' sockets that nobody else can look into; its path is short, as sockets demand."""
    base = os.environ.get("XDG_RUNTIME_DIR")
    path = Path(tempfile.mkdtemp(prefix="gguf-", dir=base if base and Path(base).is_dir() else None))
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)
