"""A process between the gateway and an engine, so that no engine outlives its gateway and keeps a GPU.

    guard.py [--grace-s SECONDS] -- ARGV...

The gateway starts it as leader of a new session, with a pipe on standard input whose other end only the gateway
holds. The guard starts ARGV as a child in its own process group, then waits:

    what happens first      what follows
    the engine ends         what it left behind is killed; the guard ends the same way (exit code or signal)
    a byte on the pipe      everything is killed at once; the guard ends as the engine did
    the pipe ends           the gateway is gone, kill -9 included: SIGTERM to the group, grace, everything is killed
    the guard is killed     the kernel kills the engine's first process (PR_SET_PDEATHSIG)

SIGTERM and SIGINT are for the engine: it has their default disposition, the guard ignores them. The guard is the
subreaper of everything below it, so a process that left the group or the session is still found and killed.

Works on Linux only. Imports nothing but cheap parts of the standard library: it runs under `python -I -S` and adds
about 15 ms to a start. An ARGV that cannot be executed ends it with exit code 127.
"""

from __future__ import annotations

import ctypes
import os
import select
import signal
import sys
import time
from typing import NoReturn

DEFAULT_GRACE_S = 5.0

_STDIN, _STDERR = 0, 2
_PR_SET_PDEATHSIG, _PR_SET_DUMPABLE, _PR_SET_CHILD_SUBREAPER = 1, 4, 36
_FOR_THE_ENGINE = {signal.SIGTERM, signal.SIGINT}

_libc = ctypes.CDLL(None, use_errno=True)


def main(arguments: list[str]) -> NoReturn:
    """Run the engine that `arguments` name to its end. Never returns."""
    grace_s, argv = _parse(arguments)
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)
    child_ended_fd = _wake_on_child_exit()
    engine = _spawn(argv)
    status = _wait_for_end(engine, child_ended_fd, grace_s)
    killed_status = _kill_descendants(engine)
    _end_like(status if status is not None else killed_status)


def _parse(arguments: list[str]) -> tuple[float, list[str]]:
    options, separator, argv = arguments, "", []
    if "--" in arguments:
        at = arguments.index("--")
        options, separator, argv = arguments[:at], "--", arguments[at + 1 :]
    known = not options or (len(options) == 2 and options[0] == "--grace-s")
    if not (separator and argv and known):
        sys.exit("usage: guard.py [--grace-s SECONDS] -- ARGV...")
    return float(options[1]) if options else DEFAULT_GRACE_S, argv


def _prctl(option: int, value: int) -> None:
    """Raises OSError where the kernel refuses."""
    unused = ctypes.c_ulong(0)
    if _libc.prctl(option, ctypes.c_ulong(value), unused, unused, unused) != 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))


def _wake_on_child_exit() -> int:
    """A descriptor that becomes readable whenever some child has ended."""
    read_fd, write_fd = os.pipe()
    os.set_blocking(read_fd, False)
    os.set_blocking(write_fd, False)
    signal.signal(signal.SIGCHLD, lambda _number, _frame: None)
    signal.set_wakeup_fd(write_fd, warn_on_full_buffer=False)
    return read_fd


def _spawn(argv: list[str]) -> int:
    """Start the engine; its pid. A SIGTERM to the group reaches it from the very beginning: none falls between."""
    guard = os.getpid()
    signal.pthread_sigmask(signal.SIG_BLOCK, _FOR_THE_ENGINE)
    engine = os.fork()
    if engine == 0:
        _become(argv, guard)
    for number in _FOR_THE_ENGINE & signal.sigpending():
        os.kill(engine, number)
    for number in _FOR_THE_ENGINE:
        signal.signal(number, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _FOR_THE_ENGINE)
    return engine


def _become(argv: list[str], guard: int) -> NoReturn:
    try:
        _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != guard:
            os._exit(1)
        os.dup2(os.open("/dev/null", os.O_RDONLY), _STDIN)
        for number in (*_FOR_THE_ENGINE, signal.SIGCHLD, signal.SIGPIPE, signal.SIGXFSZ):
            signal.signal(number, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _FOR_THE_ENGINE)
        os.execvp(argv[0], argv)  # noqa: S606 - running it is the purpose
    except OSError as error:
        os.write(_STDERR, f"guard: cannot start {argv[0]}: {error.strerror}\n".encode())
    finally:
        os._exit(127)


def _wait_for_end(engine: int, child_ended_fd: int, grace_s: float) -> int | None:
    """The engine's wait status, or None when it has to be killed."""
    watched = [child_ended_fd, _STDIN]
    deadline: float | None = None
    while True:
        timeout_s = None if deadline is None else max(0.0, deadline - time.monotonic())
        readable, _, _ = select.select(watched, [], [], timeout_s)
        if child_ended_fd in readable:
            os.read(child_ended_fd, 4096)
            if (status := _reap_ended(engine)) is not None:
                return status
        elif _STDIN in readable:
            if os.read(_STDIN, 1):
                return None
            watched.remove(_STDIN)
            deadline = time.monotonic() + grace_s
            os.killpg(0, signal.SIGTERM)
        else:
            return None


def _reap_ended(engine: int) -> int | None:
    """Reap every child that has ended; the engine's wait status if it was among them."""
    found: int | None = None
    try:
        while (ended := os.waitpid(-1, os.WNOHANG))[0] != 0:
            if ended[0] == engine:
                found = ended[1]
    except ChildProcessError:
        pass
    return found


def _kill_descendants(engine: int) -> int:
    """Kill and reap until nothing is left below the guard; the engine's wait status if it was still there, else 0.

    Each round kills all it sees and waits for one of those to end. What was forked in between has by then become
    the guard's own child, and is seen in the next round.
    """
    engine_status = 0
    while True:
        for pid in _descendants(os.getpid()):
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        try:
            pid, status = os.waitpid(-1, 0)
        except ChildProcessError:
            return engine_status
        if pid == engine:
            engine_status = status


def _descendants(root: int) -> list[int]:
    """Every process below `root`, zombies included, by the parent each names in /proc."""
    children: dict[int, list[int]] = {}
    for entry in os.scandir("/proc"):
        if entry.name.isdigit():
            try:
                with open(f"/proc/{entry.name}/stat", "rb") as file:  # noqa: PTH123 - pathlib is slow to import
                    fields = file.read().rpartition(b")")[2].split()
            except (FileNotFoundError, ProcessLookupError):
                continue
            children.setdefault(int(fields[1]), []).append(int(entry.name))
    below = [root]
    for pid in below:  # grows while it is read
        below.extend(children.get(pid, ()))
    return below[1:]


def _end_like(status: int) -> NoReturn:
    """End with the exit code or by the signal in the wait status `status`, without a second core dump."""
    if os.WIFSIGNALED(status):
        number = os.WTERMSIG(status)
        _prctl(_PR_SET_DUMPABLE, 0)
        if number != signal.SIGKILL:
            signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)
    os._exit(os.waitstatus_to_exitcode(status) & 0xFF)


if __name__ == "__main__":
    main(sys.argv[1:])
