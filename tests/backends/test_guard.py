from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from backends import guard
from tests.backends import ends

GUARD = (sys.executable, "-I", "-S", guard.__file__)
LEAVES_A_SLEEPER = "setsid sleep 1000 & echo $!"

Guarded = subprocess.Popen[str]


@contextmanager
def guarded(*argv: str, grace_s: float = guard.DEFAULT_GRACE_S) -> Iterator[Guarded]:
    command = (*GUARD, "--grace-s", str(grace_s), "--", *argv)
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, text=True, start_new_session=True) as process:
        try:
            yield process
        finally:
            if process.poll() is None:
                process.kill()


def line_from(process: Guarded) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def close_pipe(process: Guarded) -> None:
    assert process.stdin is not None
    process.stdin.close()


def test_exit_code_is_mirrored() -> None:
    with guarded("sh", "-c", "exit 7") as process:
        assert process.wait(10) == 7


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL, signal.SIGSEGV, signal.SIGABRT, signal.SIGINT])
def test_fatal_signal_is_mirrored(number: signal.Signals) -> None:
    with guarded("sh", "-c", f"kill -{number.value} $$") as process:
        assert process.wait(10) == -number


def test_program_that_is_not_there_ends_with_127_and_says_so() -> None:
    with guarded("/nowhere/engine") as process:
        assert process.wait(10) == 127
        assert process.stderr is not None
        assert "cannot start /nowhere/engine: No such file" in process.stderr.read()


@pytest.mark.parametrize("arguments", [(), ("--",), ("sleep", "1"), ("--grace", "1", "--", "true")])
def test_wrong_command_line_is_refused(arguments: tuple[str, ...]) -> None:
    refused = subprocess.run([*GUARD, *arguments], capture_output=True, text=True, timeout=10, check=False)
    assert refused.returncode == 1
    assert refused.stderr.startswith("usage:")


def test_engine_reads_nothing_from_standard_input() -> None:
    with guarded("cat") as process:
        assert process.wait(10) == 0


def test_engine_gets_signals_with_their_default_meaning() -> None:
    show = "import signal as s; print(*(s.getsignal(n) == s.SIG_DFL for n in (s.SIGTERM, s.SIGCHLD)))"
    blocked = "print(*s.pthread_sigmask(s.SIG_BLOCK, ()))"
    with guarded(sys.executable, "-c", f"{show}; {blocked}") as process:
        assert line_from(process) == "True True"
        assert line_from(process) == ""


def test_orphan_in_another_session_dies_with_the_engine() -> None:
    with guarded("sh", "-c", f"{LEAVES_A_SLEEPER}; exit 3") as process:
        sleeper = int(line_from(process))
        assert process.wait(10) == 3
        assert ends(sleeper)


def test_orphan_that_ends_early_does_not_end_the_guard() -> None:
    with guarded("sh", "-c", "(setsid true &) ; (exit 0 &) ; read line < /dev/null; echo still; exit 5") as process:
        assert line_from(process) == "still"
        assert process.wait(10) == 5


def test_sigterm_to_the_group_reaches_the_engine_only() -> None:
    script = "trap 'echo asked; exit 4' TERM; echo ready; while :; do sleep 1000 & wait; done"
    with guarded("sh", "-c", script) as process:
        assert line_from(process) == "ready"
        os.killpg(process.pid, signal.SIGTERM)
        assert line_from(process) == "asked"
        assert process.wait(10) == 4


def test_sigterm_right_after_the_start_is_not_lost() -> None:
    with guarded("sleep", "1000") as process:
        os.killpg(process.pid, signal.SIGTERM)
        assert process.wait(10) == -signal.SIGTERM


def test_end_of_the_pipe_ends_an_obedient_engine_at_once() -> None:
    with guarded("sh", "-c", "trap 'exit 6' TERM; echo ready; sleep 1000 & wait", grace_s=1000) as process:
        assert line_from(process) == "ready"
        close_pipe(process)
        assert process.wait(10) == 6


def test_end_of_the_pipe_kills_a_disobedient_engine_after_the_grace() -> None:
    script = f"trap '' TERM; {LEAVES_A_SLEEPER}; sleep 1000"
    with guarded("sh", "-c", script, grace_s=0.1) as process:
        sleeper = int(line_from(process))
        close_pipe(process)
        assert process.wait(10) == -signal.SIGKILL
        assert ends(sleeper)


def test_byte_on_the_pipe_kills_without_grace() -> None:
    with guarded("sh", "-c", f"trap '' TERM; {LEAVES_A_SLEEPER}; sleep 1000", grace_s=1000) as process:
        sleeper = int(line_from(process))
        assert process.stdin is not None
        process.stdin.write("k")
        process.stdin.flush()
        assert process.wait(10) == -signal.SIGKILL
        assert ends(sleeper)


def test_killing_the_guard_kills_the_engine() -> None:
    with guarded("sh", "-c", "echo $$; exec sleep 1000") as process:
        engine = int(line_from(process))
        process.kill()
        assert ends(engine)


GATEWAY = """
import subprocess, sys
child = subprocess.Popen(sys.argv[1:], stdin=subprocess.PIPE, start_new_session=True)
print(child.pid, flush=True)
child.wait()
"""


@pytest.mark.parametrize("kill", [subprocess.Popen.kill, subprocess.Popen.terminate])
def test_no_process_outlives_a_killed_gateway(kill: Callable[[Guarded], None]) -> None:
    script = f"trap '' TERM; echo $$; {LEAVES_A_SLEEPER}; sleep 1000"
    guard_argv = (*GUARD, "--grace-s", "0.1", "--", "sh", "-c", script)
    with subprocess.Popen([sys.executable, "-c", GATEWAY, *guard_argv], stdout=subprocess.PIPE, text=True) as gateway:
        pids = [int(line_from(gateway)) for _ in range(3)]
        kill(gateway)
        assert all(ends(pid) for pid in pids)
