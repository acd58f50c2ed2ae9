"""Engines that do what a test tells them, without a process."""

from __future__ import annotations

import asyncio

from backends.base import Endpoint, EngineFailure, EngineState, FailureReason


class ScriptedEngine:
    """Fails to start `n_bad_starts` times, then runs until `fail` is called. Its endpoint leads nowhere.

    A start takes as long as `may_load` is not set.
    """

    def __init__(self, name: str, *, kind: str = "llamacpp", n_bad_starts: int = 0) -> None:
        self.name = name
        self.kind = kind
        self.device = "cpu"
        self.cuda_device: int | None = None
        self.pid: int | None = None
        self.state = EngineState.STOPPED
        self.failure: EngineFailure | None = None
        self.endpoint = Endpoint("http://127.0.0.1:9", "key")
        self.n_starts = 0
        self._n_bad_starts = n_bad_starts
        self.may_load = asyncio.Event()
        self.may_load.set()
        self._reason = FailureReason.NO_GPU
        self._broken: asyncio.Future[EngineFailure] | None = None

    async def start(self) -> None:
        self.n_starts += 1
        self.state = EngineState.STARTING
        await asyncio.sleep(0)
        await self.may_load.wait()
        if self.n_starts <= self._n_bad_starts:
            self.state = EngineState.FAILED
            self.failure = EngineFailure(self._reason, f"{self.name} will not")
            raise self.failure
        self.failure = None
        self._broken = asyncio.get_running_loop().create_future()
        self.state = EngineState.READY

    async def wait_failed(self) -> EngineFailure:
        assert self._broken is not None
        return await asyncio.shield(self._broken)

    async def stop(self) -> None:
        if self.state in (EngineState.READY, EngineState.DRAINING):
            self.state = EngineState.STOPPED

    def will_fail(self, *, reason: FailureReason) -> None:
        """Every start from now on."""
        self._n_bad_starts, self._reason = 1000, reason

    def fail(self) -> None:
        assert self._broken is not None
        self.state = EngineState.FAILED
        self.failure = EngineFailure(FailureReason.CRASHED, "gone", exit_code=0)
        self._broken.set_result(self.failure)

    async def condemn(self, failure: EngineFailure) -> None:
        self.state = EngineState.FAILED
        self.failure = failure
