from __future__ import annotations

import asyncio
import os
import signal
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backends.base import EngineState
from backends.process import (
    TRANSITIONS,
    ChildProcess,
    EngineEvent,
    IllegalTransition,
    LineSplitter,
    exit_in_words,
    next_state,
)
from tests.backends import ends
from tests.backends.fake_engine import command

ENV = dict(os.environ)


def shell(script: str) -> ChildProcess:
    return ChildProcess.start("test", ("sh", "-c", script), ENV)


@pytest.fixture
def fifo(tmp_path: Path) -> Path:
    path = tmp_path / "fifo"
    os.mkfifo(path)
    return path


async def pids_from(fifo: Path) -> list[int]:
    return [int(pid) for pid in (await asyncio.to_thread(fifo.read_text)).split()]


@given(st.sampled_from(EngineState), st.lists(st.sampled_from(EngineEvent), max_size=12))
def test_events_lead_where_the_table_says_and_nowhere_else(start: EngineState, events: list[EngineEvent]) -> None:
    state = start
    for event in events:
        if (state, event) in TRANSITIONS:
            state = next_state(state, event)
        else:
            with pytest.raises(IllegalTransition, match=f"{event} cannot happen .* {state}"):
                next_state(state, event)


@given(st.lists(st.sampled_from(sorted(TRANSITIONS)), min_size=1, max_size=30))
def test_an_engine_is_ready_only_after_it_answered_since_its_last_start(
    moves: list[tuple[EngineState, EngineEvent]],
) -> None:
    state, has_answered = EngineState.STOPPED, False
    for origin, event in moves:
        if origin is state:
            state = next_state(state, event)
            has_answered = event is EngineEvent.ANSWERED or (has_answered and event is EngineEvent.DRAIN)
        assert (state in (EngineState.READY, EngineState.DRAINING)) == has_answered


@pytest.mark.parametrize("state", EngineState)
def test_every_state_leads_back_to_starting(state: EngineState) -> None:
    reached = {state}
    for _ in EngineState:
        reached |= {target for (origin, _), target in TRANSITIONS.items() if origin in reached}
    assert EngineState.STARTING in reached


@given(st.binary().filter(lambda text: b"\r" not in text), st.lists(st.integers(0, 40)))
def test_lines_do_not_depend_on_how_the_bytes_were_cut(text: bytes, cuts: list[int]) -> None:
    whole, piecewise = LineSplitter(max_bytes=16), LineSplitter(max_bytes=16)
    expected = whole.feed(text) + whole.flush()
    lines, rest = [], text
    for cut in cuts:
        lines += piecewise.feed(rest[:cut])
        rest = rest[cut:]
    assert lines + piecewise.feed(rest) + piecewise.flush() == expected


def test_line_longer_than_the_limit_is_cut_and_marked() -> None:
    splitter = LineSplitter(max_bytes=4)
    assert splitter.feed(b"abcd\nabcde\nab") == ["abcd", "abcd…"]
    assert splitter.feed(b"cdefg") == []
    assert splitter.flush() == ["abcd…"]


def test_only_the_last_drawing_of_a_progress_bar_counts() -> None:
    splitter = LineSplitter()
    assert splitter.feed(b" 10%\r 20%") == []
    assert splitter.feed(b"\r100%\r") == []
    assert splitter.feed(b"\nwindows\r\n") == ["100%", "windows"]


@pytest.mark.parametrize(
    ("exit_code", "words"),
    [(0, "ended with exit code 0"), (-9, "killed by SIGKILL"), (-63, "killed by signal 63")],
)
def test_exit_is_put_into_words(exit_code: int, words: str) -> None:
    assert exit_in_words(exit_code) == words


async def test_both_pipes_are_in_the_tail_when_the_process_has_ended() -> None:
    child = shell("echo out; echo err >&2; printf unfinished; exit 3")
    assert await child.wait() == 3
    assert child.exit_code == 3
    assert sorted(child.log_tail()) == ["err", "out", "unfinished"]


async def test_megabyte_without_a_line_end_does_not_stop_the_pump() -> None:
    child = ChildProcess.start("test", (sys.executable, "-c", "print('x' * 2**20); print('after')"), ENV)
    assert await child.wait() == 0
    long, after = child.log_tail()
    assert len(long) == 8193
    assert after == "after"


async def test_tail_keeps_the_last_lines_of_many() -> None:
    child = shell("seq 3000")
    assert await child.wait() == 0
    assert child.log_tail() == tuple(str(number) for number in range(2601, 3001))


async def test_child_inherits_nothing_of_the_environment() -> None:
    child = ChildProcess.start("test", ("/usr/bin/env",), {"ONLY": "this", "LC_ALL": "C.UTF-8"})
    assert await child.wait() == 0
    assert sorted(child.log_tail()) == ["LC_ALL=C.UTF-8", "ONLY=this"]


async def test_stop_is_obeyed_within_the_grace() -> None:
    child = shell("exec sleep 1000")
    assert await child.stop(grace_s=30) == -signal.SIGTERM


async def test_stop_after_the_end_only_tells_the_exit_code() -> None:
    child = shell("exit 9")
    assert await child.wait() == 9
    assert await child.stop(grace_s=30) == 9


async def test_stop_kills_what_ignores_sigterm_with_all_it_spawned(fifo: Path) -> None:
    flags = ("--ignore-sigterm", "--spawn-grandchild", "--tell", str(fifo), "--uds", str(fifo) + ".sock")
    child = ChildProcess.start("test", command(*flags), ENV)
    engine, grandchild = await pids_from(fifo)
    assert await child.stop(grace_s=0.1) == -signal.SIGKILL
    assert ends(engine, within_s=0)
    assert ends(grandchild, within_s=0)


async def test_cancelled_stop_kills_at_once(fifo: Path) -> None:
    flags = ("--ignore-sigterm", "--tell", str(fifo), "--uds", str(fifo) + ".sock")
    child = ChildProcess.start("test", command(*flags), ENV)
    await pids_from(fifo)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.1):
            await child.stop(grace_s=1000)
    assert await child.wait() == -signal.SIGKILL


async def test_cancelled_wait_leaves_the_process_alone() -> None:
    child = shell("exec sleep 1000")
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.01):
            await child.wait()
    assert child.exit_code is None
    assert await child.stop(grace_s=30) == -signal.SIGTERM


async def test_guard_that_was_killed_takes_its_group_with_it(fifo: Path) -> None:
    child = shell(f"sh -c 'echo $$ > {fifo}; exec sleep 1000' & wait")
    (grandchild,) = await pids_from(fifo)
    os.kill(child.pid, signal.SIGKILL)
    assert await child.wait() == -signal.SIGKILL
    assert ends(grandchild)


async def test_guard_that_hangs_is_killed_with_its_group(fifo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("backends.process._KILL_S", 0.1)
    child = shell(f"trap '' TERM; echo $$ > {fifo}; sleep 1000")
    (engine,) = await pids_from(fifo)
    os.kill(child.pid, signal.SIGSTOP)
    assert await child.stop(grace_s=0.1) == -signal.SIGKILL
    assert ends(engine)


async def test_program_that_is_not_there_ends_with_127() -> None:
    child = ChildProcess.start("test", ("/nowhere/engine",), ENV)
    assert await child.wait() == 127
    assert "cannot start /nowhere/engine" in child.log_tail()[0]
