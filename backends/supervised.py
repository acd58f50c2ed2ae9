"""An engine made of one child process: launched by a plan, ready once a real token came back, watched until it ends.

Nothing here knows llama.cpp or vLLM: `backends.llamacpp_engine`, `backends.llama_server` and `backends.vllm`
make the plans.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import aiohttp

from backends.base import Endpoint, EngineFailure, EngineState, FailureReason
from backends.process import ChildProcess, EngineEvent, next_state
from backends.readiness import NoAnswer, first_token, open_session

_HEALTH_LIMIT_S = 5.0
_FIRST_PAUSE_S, _LONGEST_PAUSE_S, _PAUSE_GROWTH = 0.05, 0.5, 1.3
_GATEWAY_PREFIX = "GGUF_SERVER_"
_DYING_S = 6.0  # vLLM answers 500 first and ends 3 to 5 s later, with the cause in its log


@dataclass(frozen=True, slots=True)
class LaunchPlan:
    """All that is needed for one start; a new one, with a new key, for each.

    `env` is the child's whole environment. `classify` turns an exit code (negative for a signal) and the last log
    lines into a failure; it is also asked about exit code 0, which is a failure as any other where nobody asked.
    `phase` says from the last log lines how far a start has come, where they tell. `show` makes of a line what may be
    shown of it once clients ask something; None: the whole line.
    """

    argv: tuple[str, ...]
    env: Mapping[str, str]
    endpoint: Endpoint
    served_model: str
    load_timeout_s: float
    classify: Callable[[int, tuple[str, ...]], EngineFailure]
    phase: Callable[[tuple[str, ...]], str] | None = None
    show: Callable[[str], str] | None = None


class SupervisedEngine:
    """An `Engine` over a child process.

    `plan` is called in a thread at each start, so it may look at files or ask another interpreter; it raises
    `EngineFailure` where it is plain beforehand that the engine cannot run here.
    """

    def __init__(
        self,
        *,
        name: str,
        kind: str,
        device: str,
        plan: Callable[[], LaunchPlan],
        cuda_device: int | None = None,
        stop_grace_s: float = 10.0,
    ) -> None:
        self._name = name
        self._device = device
        self._cuda_device = cuda_device
        self._kind = kind
        self._plan = plan
        self._stop_grace_s = stop_grace_s
        self._state = EngineState.STOPPED
        self._failure: EngineFailure | None = None
        self._is_failed = asyncio.Event()
        self._endpoint: Endpoint | None = None
        self._child: ChildProcess | None = None
        self._watcher: asyncio.Task[None] | None = None
        self._progress: float | None = None
        self._ready_since: float | None = None
        self._load_s: float | None = None

    def obstacle(self) -> EngineFailure | None:
        """Why a start would fail, as far as that is plain beforehand. Blocks as `plan` does."""
        try:
            self._plan()
        except EngineFailure as failure:
            return failure
        return None

    @property
    def name(self) -> str:
        return self._name

    @property
    def kind(self) -> str:
        return self._kind

    @property
    def device(self) -> str:
        return self._device

    @property
    def cuda_device(self) -> int | None:
        return self._cuda_device

    @property
    def pid(self) -> int | None:
        return self._child.pid if self._child else None

    @property
    def state(self) -> EngineState:
        return self._state

    @property
    def failure(self) -> EngineFailure | None:
        return self._failure

    @property
    def endpoint(self) -> Endpoint:
        """Raises RuntimeError before the first start."""
        if self._endpoint is None:
            raise RuntimeError(f"{self._name} was never started")
        return self._endpoint

    @property
    def progress(self) -> float | None:
        """How much is loaded, 0 to 1, where the engine tells; None where it does not."""
        return self._progress

    @property
    def ready_since(self) -> float | None:
        """`time.monotonic()` of the moment it became ready; None while it is not."""
        return self._ready_since

    @property
    def load_s(self) -> float | None:
        """What the last successful start took."""
        return self._load_s

    def log_tail(self) -> tuple[str, ...]:
        """The last lines of the running process, oldest first; nothing where there is none."""
        return self._child.log_tail() if self._child else ()

    async def start(self) -> None:
        """Spawn and wait until a real token came back.

        Raises `EngineFailure`, and `IllegalTransition` unless stopped or failed. When it raises or is cancelled, the
        process is gone.
        """
        self._become(EngineEvent.START)
        self._is_failed.clear()
        self._progress = None
        began = time.monotonic()
        try:
            plan = await self._make_plan()
            self._endpoint = plan.endpoint
            child = await self._load(plan)
        except EngineFailure as failure:
            self._break(failure)
            raise
        except BaseException:
            self._become(EngineEvent.GONE)
            raise
        self._failure = None
        self._ready_since = time.monotonic()
        self._load_s = self._ready_since - began
        self._become(EngineEvent.ANSWERED)
        self._watcher = asyncio.create_task(self._watch(child, plan), name=f"engine watcher {self._name}")

    async def wait_failed(self) -> EngineFailure:
        """The failure, once the engine is `failed`; at once where it already is. Safe to cancel."""
        while self._failure is None or not self._is_failed.is_set():
            await self._is_failed.wait()
        return self._failure

    async def stop(self) -> None:
        """End the process and everything it spawned; returns when all of it is gone.

        Does nothing where there is no process, so a failed engine stays `failed`. Cancelled, it kills instead of
        waiting for the rest of the grace, and may be called again.
        """
        child = self._child
        if child is None:
            return
        if self._state is EngineState.READY:
            self._become(EngineEvent.DRAIN)
        await self._stop_watching()
        await self._end(child)
        if self._state is EngineState.DRAINING:  # else the watcher saw its end first
            self._become(EngineEvent.GONE)

    async def condemn(self, failure: EngineFailure) -> None:
        """Kill a ready engine that does not do its work; it is `failed` for the reason given.

        Does nothing to one that has ended meanwhile. A SIGTERM would wait for what hangs, so there is no grace.
        """
        child = self._child
        if child is None or self._state not in (EngineState.READY, EngineState.DRAINING):
            return
        await self._stop_watching()
        if self._child is None:
            return
        failure.log_tail = failure.log_tail or child.log_tail()
        await self._end(child, grace_s=0.0)
        self._break(failure)

    async def _stop_watching(self) -> None:
        watcher, self._watcher = self._watcher, None
        if watcher is not None:
            watcher.cancel()
            await asyncio.wait((watcher,))

    def _become(self, event: EngineEvent) -> None:
        self._state = next_state(self._state, event)
        if self._state not in (EngineState.READY, EngineState.DRAINING):
            self._ready_since = None

    def _break(self, failure: EngineFailure) -> None:
        self._failure = failure
        self._become(EngineEvent.BROKE)
        self._is_failed.set()

    async def _make_plan(self) -> LaunchPlan:
        """What the machine refuses (a folder, a process) is this engine's failure and not the end of its gateway."""
        try:
            return await asyncio.to_thread(self._plan)
        except OSError as error:
            raise EngineFailure(FailureReason.INVALID_SETTINGS, f"it cannot be started: {error}") from error

    async def _load(self, plan: LaunchPlan) -> ChildProcess:
        try:
            child = self._child = ChildProcess.start(self._name, plan.argv, _without_secrets(plan.env))
        except OSError as error:
            raise EngineFailure(FailureReason.CRASHED, f"no process could be made: {error}") from error
        try:
            async with asyncio.timeout(plan.load_timeout_s):
                await self._until_ready(plan, child)
        except TimeoutError:
            reached = f": {plan.phase(child.log_tail())}" if plan.phase else ""
            detail = f"not ready after {plan.load_timeout_s:g} s{reached}"
            failure = EngineFailure(FailureReason.START_TIMEOUT, detail, log_tail=child.log_tail())
            await self._end(child)
            raise failure from None
        except BaseException:
            await self._end(child)
            raise
        if plan.show is not None:
            child.show(plan.show)
        return child

    async def _until_ready(self, plan: LaunchPlan, child: ChildProcess) -> None:
        """Return when it answers; raise `EngineFailure` when it ends or cannot answer. Safe to cancel."""
        probe = asyncio.create_task(self._probe(plan))
        ended = asyncio.create_task(child.wait())
        try:
            await asyncio.wait((probe, ended), return_when=asyncio.FIRST_COMPLETED)
            if probe.done() and probe.exception() is not None:
                await asyncio.wait((ended,), timeout=_DYING_S)
            if ended.done():
                raise plan.classify(ended.result(), child.log_tail())
            await probe
        except NoAnswer as problem:
            raise EngineFailure(FailureReason.UNHEALTHY, str(problem), log_tail=child.log_tail()) from problem
        finally:
            probe.cancel()
            ended.cancel()
            await asyncio.gather(probe, ended, return_exceptions=True)

    async def _probe(self, plan: LaunchPlan) -> None:
        """Poll `/health` until it is 200, then ask for one token. Raises `NoAnswer` where that does not come."""
        async with open_session(plan.endpoint) as session:
            pause_s = _FIRST_PAUSE_S
            while not await self._is_healthy(session, plan.endpoint):
                await asyncio.sleep(pause_s)
                pause_s = min(pause_s * _PAUSE_GROWTH, _LONGEST_PAUSE_S)
            await first_token(session, plan.endpoint, plan.served_model)

    async def _is_healthy(self, session: aiohttp.ClientSession, endpoint: Endpoint) -> bool:
        limit = aiohttp.ClientTimeout(total=_HEALTH_LIMIT_S)
        try:
            async with session.get(endpoint.base_url + "/health", timeout=limit) as answer:
                if answer.status == 503:
                    self._progress = _progress_in(await answer.read())
                return answer.status == 200
        except (aiohttp.ClientError, TimeoutError):  # refused, or no socket yet
            return False

    async def _watch(self, child: ChildProcess, plan: LaunchPlan) -> None:
        exit_code = await child.wait()
        self._child = None
        self._break(plan.classify(exit_code, child.log_tail()))
        _remove_socket(plan.endpoint)

    async def _end(self, child: ChildProcess, *, grace_s: float | None = None) -> None:
        await child.stop(self._stop_grace_s if grace_s is None else grace_s)
        self._child = None
        _remove_socket(self._endpoint)


def _without_secrets(env: Mapping[str, str]) -> dict[str, str]:
    """The gateway's own settings hold its clients' keys, which are no engine's business."""
    return {name: value for name, value in env.items() if not name.startswith(_GATEWAY_PREFIX)}


def _remove_socket(endpoint: Endpoint | None) -> None:
    """A killed engine leaves its socket behind."""
    if endpoint is not None and endpoint.uds_path is not None:
        Path(endpoint.uds_path).unlink(missing_ok=True)


def _progress_in(body: bytes) -> float | None:
    """The `progress` of a 503 `/health`, where there is one between 0 and 1."""
    try:
        value = json.loads(body)["progress"]
    except (ValueError, KeyError, TypeError):
        return None
    return float(value) if type(value) in (int, float) and 0 <= value <= 1 else None
