"""One supervised child process, and the life every engine leads.

What the child serves, when it is ready and why it failed is not known here (`backends.supervised`).

    state      START      ANSWERED   DRAIN      BROKE    GONE
    stopped    starting
    starting              ready                 failed   stopped
    ready                            draining   failed   stopped
    draining                                    failed   stopped
    failed     starting

An empty field is a mistake of the caller and raises `IllegalTransition`.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from enum import StrEnum
from types import MappingProxyType
from typing import IO, Self

import structlog

from backends import guard
from backends.base import EngineState

_log: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)

_N_TAIL_LINES = 400  # vLLM prints the same traceback from up to three processes; the cause is in the first
_MAX_LINE_BYTES = 8192
_PUMP_END_S = 2.0
_KILL_S = 10.0


class EngineEvent(StrEnum):
    START = "start"  # somebody wants it
    ANSWERED = "answered"  # a real token came back
    DRAIN = "drain"  # nothing new for it
    BROKE = "broke"  # it ended, or never came up, unasked
    GONE = "gone"  # it ended because it was asked to


class IllegalTransition(Exception):
    """An event that cannot happen in this state."""


TRANSITIONS: Mapping[tuple[EngineState, EngineEvent], EngineState] = MappingProxyType(
    {
        (EngineState.STOPPED, EngineEvent.START): EngineState.STARTING,
        (EngineState.STARTING, EngineEvent.ANSWERED): EngineState.READY,
        (EngineState.STARTING, EngineEvent.BROKE): EngineState.FAILED,
        (EngineState.STARTING, EngineEvent.GONE): EngineState.STOPPED,
        (EngineState.READY, EngineEvent.DRAIN): EngineState.DRAINING,
        (EngineState.READY, EngineEvent.BROKE): EngineState.FAILED,
        (EngineState.READY, EngineEvent.GONE): EngineState.STOPPED,
        (EngineState.DRAINING, EngineEvent.BROKE): EngineState.FAILED,
        (EngineState.DRAINING, EngineEvent.GONE): EngineState.STOPPED,
        (EngineState.FAILED, EngineEvent.START): EngineState.STARTING,
    }
)


def next_state(state: EngineState, event: EngineEvent) -> EngineState:
    """Where `event` leads from `state`. Raises `IllegalTransition` where the table has no entry."""
    try:
        return TRANSITIONS[state, event]
    except KeyError:
        raise IllegalTransition(f"{event} cannot happen to an engine that is {state}") from None


def exit_in_words(exit_code: int) -> str:
    """How a process ended, for a person; a negative code is a signal."""
    if exit_code >= 0:
        return f"ended with exit code {exit_code}"
    try:
        return f"killed by {signal.Signals(-exit_code).name}"
    except ValueError:
        return f"killed by signal {-exit_code}"


class LineSplitter:
    """Bytes in pieces of any size → lines, each at most `max_bytes` long; what is longer is cut and marked with `…`.

    Of a line that carriage returns redraw (a progress bar), only the last drawing counts, as on a terminal.
    """

    def __init__(self, max_bytes: int = _MAX_LINE_BYTES) -> None:
        self._max_bytes = max_bytes
        self._rest = b""
        self._is_cut = False

    def feed(self, piece: bytes) -> list[str]:
        """The lines that `piece` completes."""
        *whole, rest = piece.split(b"\n")
        lines = []
        for part in whole:
            self._extend(part)
            lines.append(self._take())
        self._extend(rest)
        return lines

    def flush(self) -> list[str]:
        """The last line, where no line end came after it."""
        return [self._take()] if self._rest else []

    def _extend(self, part: bytes) -> None:
        joined = self._rest + part
        redrawn_at = joined.rfind(b"\r", 0, len(joined) - 1)  # one at the very end may belong to \r\n
        if redrawn_at >= 0:
            joined, self._is_cut = joined[redrawn_at + 1 :], False
        self._is_cut = self._is_cut or len(joined) > self._max_bytes
        self._rest = joined[: self._max_bytes]

    def _take(self) -> str:
        line = self._rest.removesuffix(b"\r").decode(errors="replace") + ("…" if self._is_cut else "")
        self._rest, self._is_cut = b"", False
        return line


class ChildProcess:
    """A process and everything it spawned, in a session of its own behind `backends.guard`.

    Its output is read from the first byte to the last, so it never blocks on a full pipe. If the gateway dies in
    whatever way, the guard ends it. Made by `start` only; one object is one process.
    """

    def __init__(self, name: str, process: subprocess.Popen[bytes], leash_fd: int) -> None:
        self._name = name
        self._process = process
        self._leash_fd: int | None = leash_fd
        self._tail: deque[str] = deque(maxlen=_N_TAIL_LINES)
        self._exit_code: int | None = None
        self._show: Callable[[str], str] | None = None
        self._owner = asyncio.create_task(self._run(leash_fd), name=f"engine process {name}")

    @classmethod
    def start(cls, name: str, argv: Sequence[str], env: Mapping[str, str]) -> Self:
        """Spawn `argv` with the environment `env`, nothing inherited. Raises OSError where no process can be made.

        Needs a running event loop, which it blocks for about a millisecond. An `argv` that cannot be executed is not
        an error here: it ends with exit code 127.
        """
        stdin_fd, leash_fd = os.pipe()
        os.set_blocking(leash_fd, False)
        try:
            process = subprocess.Popen(
                [sys.executable, "-I", "-S", guard.__file__, "--", *argv],
                stdin=stdin_fd,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                env=env,
                start_new_session=True,
            )
        except BaseException:
            os.close(leash_fd)
            raise
        finally:
            os.close(stdin_fd)
        return cls(name, process, leash_fd)

    @property
    def pid(self) -> int:
        """Of the guard, which is also the number of the process group and of the session."""
        return self._process.pid

    @property
    def exit_code(self) -> int | None:
        """None while it runs; negative for a signal."""
        return self._exit_code

    def log_tail(self) -> tuple[str, ...]:
        """The last lines of both pipes, oldest first; complete once `wait` has returned."""
        return tuple(self._tail)

    def show(self, show: Callable[[str], str]) -> None:
        """Keep and log what `show` makes of each line from now on, and not the line itself."""
        self._show = show

    async def wait(self) -> int:
        """The exit code (negative for a signal), once every process is gone. Safe to cancel, by any number of tasks."""
        return await asyncio.shield(self._owner)

    async def stop(self, grace_s: float) -> int:
        """SIGTERM to the group, `grace_s` to obey, then SIGKILL; the exit code once every process is gone.

        Does nothing to a process that has ended. Cancelling it kills at once and leaves the reaping to the owner
        task.
        """
        try:
            self._signal(signal.SIGTERM)
            async with asyncio.timeout(grace_s):
                return await self.wait()
        except TimeoutError:
            _log.warning("engine_killed", engine=self._name, grace_s=grace_s)
            self._kill()
        except asyncio.CancelledError:
            self._kill()
            raise
        try:
            async with asyncio.timeout(_KILL_S):
                return await self.wait()
        except TimeoutError:  # the guard itself hangs
            self._signal(signal.SIGKILL)
            return await self.wait()

    async def _run(self, leash_fd: int) -> int:
        stdout, stderr = self._process.stdout, self._process.stderr
        pumps = [
            asyncio.create_task(self._pump(name, pipe))
            for name, pipe in (("stdout", stdout), ("stderr", stderr))
            if pipe is not None
        ]
        try:
            await _ended(self._process.pid)
            self._signal_group(signal.SIGKILL)  # in case the guard itself was killed; not reaped, so its number is ours
            self._exit_code = self._process.wait()
            await asyncio.wait(pumps, timeout=_PUMP_END_S)
            return self._exit_code
        finally:
            os.close(leash_fd)  # where this task is cancelled, the guard takes it for the gateway's death
            self._leash_fd = None
            for pump in pumps:
                pump.cancel()
            await asyncio.gather(*pumps, return_exceptions=True)

    async def _pump(self, pipe_name: str, pipe: IO[bytes]) -> None:
        reader, splitter = asyncio.StreamReader(), LineSplitter()
        loop = asyncio.get_running_loop()
        transport, _ = await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), pipe)
        with contextlib.closing(transport):
            while piece := await reader.read(65536):
                self._note(pipe_name, splitter.feed(piece))
            self._note(pipe_name, splitter.flush())

    def _note(self, pipe_name: str, lines: Iterable[str]) -> None:
        for line in lines if self._show is None else map(self._show, lines):
            self._tail.append(line)
            with contextlib.suppress(OSError):  # a full disk or a closed terminal must not block the engine
                _log.debug("engine_log", engine=self._name, pipe=pipe_name, line=line)

    def _signal(self, number: signal.Signals) -> None:
        if self._exit_code is None:
            self._signal_group(number)

    def _signal_group(self, number: signal.Signals) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, number)

    def _kill(self) -> None:
        """Have the guard kill the group and whoever left it; a SIGKILL to the group would miss those."""
        if self._leash_fd is not None:
            with contextlib.suppress(BrokenPipeError):
                os.write(self._leash_fd, b"k")


async def _ended(pid: int) -> None:
    """Return once the child `pid` has ended, without reaping it. Safe to cancel.

    asyncio's own subprocesses do not tell before every copy of their pipes is closed as well.
    """
    loop, ended = asyncio.get_running_loop(), asyncio.Event()
    pidfd = os.pidfd_open(pid)
    loop.add_reader(pidfd, ended.set)
    try:
        await ended.wait()
    finally:
        loop.remove_reader(pidfd)
        os.close(pidfd)
