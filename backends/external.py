"""An engine that somebody else runs: any server that speaks OpenAI's API at a URL.

There is no process to start, stop or kill. Starting is making sure that a real token comes back; from then on the
server is asked for a sign of life every few seconds, and several failures in a row end the engine. The states are
those of `backends.process`.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from backends.base import Dialect, Endpoint, EngineFailure, EngineState, FailureReason
from backends.external_probe import ServerProbe
from backends.process import EngineEvent, next_state
from backends.readiness import open_session

_POLL_S = 5.0
_QUICK_POLL_S = 1.0  # once one sign of life did not come
_MOST_FAILURES = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class ExternalSpec:
    """One server. `url` may end in `/v1` or not; `model` None is the first that it lists; `dialect` None is found out.

    The key is the content of the environment variable `api_key_env` or of the file `api_key_file`, read at each start.
    """

    url: str
    model: str | None = None
    api_key_env: str | None = None
    api_key_file: Path | None = None
    dialect: Dialect | None = None
    embeds: bool = False
    start_timeout_s: float = 90.0


class ExternalEngine:
    """An `Engine` without a process. `poll_s`: pause between two signs of life."""

    def __init__(self, spec: ExternalSpec, *, name: str = "openai", poll_s: float = _POLL_S) -> None:
        self._spec = spec
        self._name = name
        self._poll_s = poll_s
        self._state = EngineState.STOPPED
        self._failure: EngineFailure | None = None
        self._is_failed = asyncio.Event()
        self._endpoint: Endpoint | None = None
        self._watcher: asyncio.Task[None] | None = None

    @property
    def name(self) -> str:
        return self._name

    @property
    def kind(self) -> str:
        return "openai"

    @property
    def device(self) -> str:
        return "remote"

    @property
    def cuda_device(self) -> int | None:
        return None

    @property
    def pid(self) -> int | None:
        return None

    @property
    def state(self) -> EngineState:
        return self._state

    @property
    def failure(self) -> EngineFailure | None:
        return self._failure

    @property
    def endpoint(self) -> Endpoint:
        """Raises RuntimeError before the first successful start."""
        if self._endpoint is None:
            raise RuntimeError(f"{self._name} was never ready")
        return self._endpoint

    async def start(self) -> None:
        """Reach the server and wait until a real token came back.

        Raises `EngineFailure`, and `IllegalTransition` unless stopped or failed. A server that says it is loading is
        waited for; one that is not there is a failure at once.
        """
        self._become(EngineEvent.START)
        self._is_failed.clear()
        try:
            async with asyncio.timeout(self._spec.start_timeout_s):
                endpoint, health_path = await self._reach()
        except TimeoutError:
            failure = EngineFailure(FailureReason.START_TIMEOUT, f"not ready after {self._spec.start_timeout_s:g} s")
            self._break(failure)
            raise failure from None
        except EngineFailure as failure:
            self._break(failure)
            raise
        except BaseException:
            self._become(EngineEvent.GONE)
            raise
        self._endpoint = endpoint
        self._failure = None
        self._become(EngineEvent.ANSWERED)
        self._watcher = asyncio.create_task(self._watch(endpoint, health_path), name=f"engine watcher {self._name}")

    async def wait_failed(self) -> EngineFailure:
        """The failure, once the engine is `failed`; at once where it already is. Safe to cancel."""
        while self._failure is None or not self._is_failed.is_set():
            await self._is_failed.wait()
        return self._failure

    async def condemn(self, failure: EngineFailure) -> None:
        """Give up a ready engine that does not do its work: `failed`. Does nothing to one that has ended meanwhile."""
        if self._state in (EngineState.READY, EngineState.DRAINING):
            await self._stop_watching()
        if self._state in (EngineState.READY, EngineState.DRAINING):
            self._break(failure)

    async def stop(self) -> None:
        """Take no more interest in the server, which goes on as it is. Does nothing twice."""
        await self._stop_watching()
        if self._state is EngineState.READY:
            self._become(EngineEvent.DRAIN)
        if self._state is EngineState.DRAINING:
            self._become(EngineEvent.GONE)

    async def _reach(self) -> tuple[Endpoint, str]:
        """Where it answers, and the path to ask for signs of life."""
        spec = self._spec
        base_url, key = base_url_of(spec.url), read_key(spec, os.environ)
        plain = Endpoint(base_url, key, dialect=Dialect.OPENAI, embeds=spec.embeds)
        async with open_session(plain) as session:
            probe = ServerProbe(session, plain)
            health_path = await probe.wait_loaded()
            model = spec.model or await probe.first_model()
            dialect = spec.dialect or await probe.dialect(model)
            await probe.token(dialect, model)
        continues_reasoning = dialect is Dialect.LLAMA_SERVER
        endpoint = replace(plain, dialect=dialect, model=model, continues_reasoning=continues_reasoning)
        return endpoint, health_path

    async def _watch(self, endpoint: Endpoint, health_path: str) -> None:
        n_failures = 0
        async with open_session(endpoint) as session:
            probe = ServerProbe(session, endpoint)
            while True:
                await asyncio.sleep(min(self._poll_s, _QUICK_POLL_S) if n_failures else self._poll_s)
                try:
                    await probe.still_there(health_path)
                    n_failures = 0
                except EngineFailure as failure:
                    n_failures += 1
                    if n_failures == _MOST_FAILURES:
                        self._break(failure)
                        return

    async def _stop_watching(self) -> None:
        watcher, self._watcher = self._watcher, None
        if watcher is not None:
            watcher.cancel()
            await asyncio.wait((watcher,))

    def _become(self, event: EngineEvent) -> None:
        self._state = next_state(self._state, event)

    def _break(self, failure: EngineFailure) -> None:
        self._failure = failure
        self._become(EngineEvent.BROKE)
        self._is_failed.set()


def base_url_of(url: str) -> str:
    """What comes before `/v1/...`."""
    return url.rstrip("/").removesuffix("/v1").rstrip("/")


def read_key(spec: ExternalSpec, environ: Mapping[str, str]) -> str:
    """The key, empty where none is configured. Raises `EngineFailure`; the key is in no message."""
    if spec.api_key_env is not None:
        source, key = f"the environment variable {spec.api_key_env}", environ.get(spec.api_key_env, "")
    elif spec.api_key_file is not None:
        source, key = str(spec.api_key_file), _content(spec.api_key_file)
    else:
        return ""
    key = key.strip()
    if not key:
        raise EngineFailure(FailureReason.INVALID_SETTINGS, f"{source} holds no key")
    if not key.isascii() or not key.isprintable() or " " in key:
        raise EngineFailure(FailureReason.INVALID_SETTINGS, f"what {source} holds is not one key")
    return key


def _content(path: Path) -> str:
    try:
        return path.expanduser().read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        told = error.strerror if isinstance(error, OSError) else "not text"
        raise EngineFailure(FailureReason.INVALID_SETTINGS, f"the key file {path}: {told}") from error
