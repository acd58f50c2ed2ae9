from __future__ import annotations

import asyncio
import os
import secrets
import signal
import socket
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, ExitStack
from dataclasses import replace
from pathlib import Path

import aiohttp
import pytest

from backends.base import Endpoint, Engine, EngineFailure, EngineState, FailureReason
from backends.process import IllegalTransition, exit_in_words
from backends.served_lines import showing
from backends.supervised import LaunchPlan, SupervisedEngine
from tests.backends import ends
from tests.backends.fake_engine import command

MakeEngine = Callable[..., SupervisedEngine]


def classify(exit_code: int, log_tail: tuple[str, ...]) -> EngineFailure:
    detail = exit_in_words(exit_code)
    return EngineFailure(FailureReason.CRASHED, detail, exit_code=exit_code, log_tail=log_tail)


def launch(endpoint: Endpoint, *flags: str, load_timeout_s: float = 30.0, key: str | None = None) -> LaunchPlan:
    return LaunchPlan(
        argv=command(*flags),
        env={**os.environ, "FAKE_ENGINE_KEY": key or endpoint.api_key},
        endpoint=endpoint,
        served_model="fake",
        load_timeout_s=load_timeout_s,
        classify=classify,
    )


@pytest.fixture
def folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="engine-") as path:  # shorter than tmp_path: a socket's path is limited
        yield Path(path)


@pytest.fixture
async def make(folder: Path) -> AsyncIterator[MakeEngine]:
    """Engines on sockets in `folder`, stopped at the end."""
    async with AsyncExitStack() as stack:

        def build(*flags: str, load_timeout_s: float = 30.0, key: str | None = None) -> SupervisedEngine:
            def plan() -> LaunchPlan:
                uds = str(folder / f"{secrets.token_hex(4)}.sock")
                endpoint = Endpoint("http://localhost", secrets.token_hex(8), uds)
                return launch(endpoint, "--uds", uds, *flags, load_timeout_s=load_timeout_s, key=key)

            engine = SupervisedEngine(name="fake", kind="test", device="cpu", plan=plan, stop_grace_s=10.0)
            stack.push_async_callback(engine.stop)
            return engine

        yield build


@pytest.fixture
def fifo(folder: Path) -> Path:
    path = folder / "fifo"
    os.mkfifo(path)
    return path


async def pids_from(fifo: Path) -> list[int]:
    return [int(pid) for pid in (await asyncio.to_thread(fifo.read_text)).split()]


def names_in(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir()]


def state_of(engine: Engine) -> EngineState:
    """Hides from the type checker that the state was looked at before: it changes."""
    return engine.state


async def test_started_engine_answers_and_a_stopped_one_left_nothing(make: MakeEngine, folder: Path) -> None:
    engine: Engine = make()
    assert state_of(engine) is EngineState.STOPPED
    await engine.start()
    assert state_of(engine) is EngineState.READY
    endpoint = engine.endpoint
    headers = {"Authorization": f"Bearer {endpoint.api_key}"}
    connector = aiohttp.UnixConnector(endpoint.uds_path or "")
    async with (
        aiohttp.ClientSession(endpoint.base_url, connector=connector, headers=headers) as session,
        session.get("/v1/models") as answer,
    ):
        assert (await answer.json())["data"][0]["id"] == "fake"
    await engine.stop()
    assert state_of(engine) is EngineState.STOPPED
    assert engine.failure is None
    assert names_in(folder) == []


async def test_each_start_has_a_key_of_its_own_and_a_second_stop_does_nothing(make: MakeEngine) -> None:
    engine = make()
    keys = set()
    for _ in range(2):
        await engine.start()
        keys.add(engine.endpoint.api_key)
        await engine.stop()
        await engine.stop()
    assert len(keys) == 2


async def test_ready_engine_tells_since_when_and_how_long_it_took(make: MakeEngine) -> None:
    engine = make()
    assert engine.ready_since is None
    assert engine.load_s is None
    await engine.start()
    assert engine.ready_since is not None
    assert engine.load_s is not None
    assert 0 < engine.load_s < 30
    await engine.stop()
    assert engine.ready_since is None


async def test_engine_on_a_loopback_port_becomes_ready() -> None:
    with ExitStack() as stack:
        probe = stack.enter_context(socket.socket())
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    endpoint = Endpoint(f"http://127.0.0.1:{port}", "key")
    engine = SupervisedEngine(
        name="fake", kind="test", device="cpu", plan=lambda: launch(endpoint, "--port", str(port))
    )
    await engine.start()
    await engine.stop()
    assert engine.load_s is not None


async def test_progress_is_that_of_the_last_503(make: MakeEngine) -> None:
    engine = make("--load-s", "1")
    assert engine.progress is None
    await engine.start()
    assert engine.progress is not None
    assert 0 <= engine.progress < 1


@pytest.mark.parametrize("code", [0, 3, -signal.SIGSEGV])
async def test_process_that_ends_while_loading_is_a_classified_failure(make: MakeEngine, code: int) -> None:
    engine = make("--print-before", "no such tensor", "--exit-at-load", str(code))
    with pytest.raises(EngineFailure) as caught:
        await engine.start()
    assert engine.state is EngineState.FAILED
    assert engine.failure is caught.value
    assert caught.value.reason is FailureReason.CRASHED
    assert caught.value.exit_code == code
    assert caught.value.log_tail == ("no such tensor",)
    assert await engine.wait_failed() is caught.value
    await engine.stop()
    assert engine.state is EngineState.FAILED


async def test_engine_that_never_loads_is_given_up_at_the_deadline(make: MakeEngine, folder: Path) -> None:
    engine = make("--health-503-forever", "--print-before", "still thinking", load_timeout_s=3.0)
    with pytest.raises(EngineFailure) as caught:
        await engine.start()
    assert caught.value.reason is FailureReason.START_TIMEOUT
    assert caught.value.detail == "not ready after 3 s"
    assert "still thinking" in caught.value.log_tail
    assert engine.log_tail() == ()
    assert names_in(folder) == []


async def test_engine_that_never_loads_says_how_far_it_came(folder: Path) -> None:
    uds = str(folder / "engine.sock")
    flags = ("--uds", uds, "--health-503-forever", "--print-before", "still thinking")
    given = launch(Endpoint("http://localhost", "key", uds), *flags, load_timeout_s=3.0)
    plan = replace(given, phase=lambda log_tail: f"it said {log_tail[-1]!r}")
    engine = SupervisedEngine(name="fake", kind="test", device="cpu", plan=lambda: plan)
    with pytest.raises(EngineFailure) as caught:
        await engine.start()
    assert caught.value.detail == "not ready after 3 s: it said 'still thinking'"


async def test_what_a_serving_engine_prints_is_kept_as_it_may_be_shown(folder: Path) -> None:
    uds = str(folder / "engine.sock")
    given = launch(Endpoint("http://localhost", "key", uds), "--uds", uds, "--print-before", "ValueError: mine")
    engine = SupervisedEngine(name="fake", kind="test", device="cpu", plan=lambda: replace(given, show=showing("^$")))
    await engine.start()
    async with aiohttp.ClientSession("http://engine", connector=aiohttp.UnixConnector(uds)) as session:
        await (await session.post("/_fault", json={"kind": "print"})).read()
        headers = {"Authorization": "Bearer key"}
        await (await session.post("/v1/completions", json={"prompt": "a secret"}, headers=headers)).read()
    async with asyncio.timeout(5):
        while len(engine.log_tail()) < 2:
            await asyncio.sleep(0.005)
    before, *after = engine.log_tail()
    assert before == "ValueError: mine"
    assert set(after) == {"ValueError: …"}
    await engine.stop()


async def test_engine_that_is_healthy_without_answering_is_unhealthy(
    make: MakeEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("backends.supervised._DYING_S", 0.05)
    engine = make(key="another key than the gateway's")
    with pytest.raises(EngineFailure, match=r"answered 401: .*Unauthorized") as caught:
        await engine.start()
    assert caught.value.reason is FailureReason.UNHEALTHY


async def test_engine_that_dies_of_its_first_request_is_classified_by_its_end(make: MakeEngine) -> None:
    engine = make("--exit-at-first-request", "7")
    with pytest.raises(EngineFailure) as caught:
        await engine.start()
    assert caught.value.exit_code == 7


async def test_plan_that_cannot_be_made_fails_without_a_process() -> None:
    def plan() -> LaunchPlan:
        raise EngineFailure(FailureReason.NOT_INSTALLED, "pip install it")

    engine = SupervisedEngine(name="fake", kind="test", device="cpu", plan=plan)
    with pytest.raises(EngineFailure, match="pip install it"):
        await engine.start()
    assert engine.state is EngineState.FAILED
    with pytest.raises(RuntimeError, match="never started"):
        _ = engine.endpoint


async def test_mistake_in_a_plan_leaves_the_engine_stopped() -> None:
    def plan() -> LaunchPlan:
        raise ZeroDivisionError

    engine = SupervisedEngine(name="fake", kind="test", device="cpu", plan=plan)
    with pytest.raises(ZeroDivisionError):
        await engine.start()
    assert engine.state is EngineState.STOPPED


async def test_end_that_nobody_asked_for_is_a_failure_even_with_exit_code_0(make: MakeEngine, fifo: Path) -> None:
    engine = make("--tell", str(fifo))
    (pid,), _ = await asyncio.gather(pids_from(fifo), engine.start())
    os.kill(pid, signal.SIGTERM)  # from somebody else: it obeys and ends cleanly
    failure = await engine.wait_failed()
    assert failure.exit_code == 0
    assert engine.state is EngineState.FAILED
    assert engine.failure is failure
    assert engine.ready_since is None


async def test_failed_engine_can_be_started_again_and_forgets_its_failure(make: MakeEngine, fifo: Path) -> None:
    engine = make("--tell", str(fifo))
    for _ in range(2):
        (pid,), _ = await asyncio.gather(pids_from(fifo), engine.start())
        assert engine.failure is None
        os.kill(pid, signal.SIGKILL)
        assert (await engine.wait_failed()).exit_code == -signal.SIGKILL


async def test_failure_takes_everything_the_engine_spawned_with_it(make: MakeEngine, fifo: Path) -> None:
    engine = make("--tell", str(fifo), "--spawn-grandchild")
    (pid, grandchild), _ = await asyncio.gather(pids_from(fifo), engine.start())
    os.kill(pid, signal.SIGKILL)
    await engine.wait_failed()
    assert ends(grandchild, within_s=0)


async def test_cancelled_start_leaves_no_process(make: MakeEngine, fifo: Path) -> None:
    engine = make("--health-503-forever", "--tell", str(fifo))
    starting = asyncio.create_task(engine.start())
    (pid,) = await pids_from(fifo)
    starting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await starting
    assert ends(pid, within_s=0)
    assert engine.state is EngineState.STOPPED


async def test_engine_that_ignores_sigterm_is_killed_after_the_grace(folder: Path) -> None:
    uds = str(folder / "s.sock")
    endpoint = Endpoint("http://localhost", "key", uds)
    engine = SupervisedEngine(
        name="fake",
        kind="test",
        device="cpu",
        plan=lambda: launch(endpoint, "--uds", uds, "--ignore-sigterm"),
        stop_grace_s=0.1,
    )
    await engine.start()
    await engine.stop()
    assert engine.state is EngineState.STOPPED
    assert names_in(folder) == []


async def test_asked_stop_is_no_failure(make: MakeEngine) -> None:
    engine = make()
    await engine.start()
    waiting = asyncio.create_task(engine.wait_failed())
    await engine.stop()
    assert not waiting.done()
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting


async def test_ready_engine_cannot_be_started(make: MakeEngine) -> None:
    engine = make()
    await engine.start()
    with pytest.raises(IllegalTransition):
        await engine.start()
    assert engine.state is EngineState.READY


async def test_what_the_machine_refuses_to_a_plan_is_the_engines_failure() -> None:
    def plan() -> LaunchPlan:
        raise PermissionError("not for you")

    engine = SupervisedEngine(name="fake", kind="test", device="cpu", plan=plan)
    with pytest.raises(EngineFailure, match="not for you"):
        await engine.start()
    assert engine.state is EngineState.FAILED
