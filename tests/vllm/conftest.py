"""Real vLLM on this machine's processor. A start takes half a minute and more, so tests share programs."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.client import Client
from tests.e2e.program import until
from tests.vllm import environments, models
from tests.vllm.chains import LOAD_S, PROCESSES, VLLM, Chain, Keeper, service, vllm

HERE = Path(__file__).parent
TEST_LIMIT_S = 600

# Soon enough for a test, and slow enough for two busy cores.
FAILOVER = {
    "stall_s": 4.0,
    "probe_every_s": 4.0,
    "probe_timeout_s": 8.0,
    "failback_after_s": 1.0,
    "stable_after_s": 1.0,
}


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests that share a program come together, whatever order the others are in."""
    for item in items:
        if HERE in item.path.parents:
            item.add_marker(pytest.mark.timeout(TEST_LIMIT_S))

    def program(item: pytest.Item) -> list[bool]:
        return [name not in getattr(item, "fixturenames", ()) for name in ("chain", "mortal", "failed")]

    items.sort(key=program)


@pytest.fixture(scope="session", autouse=True)
def made() -> None:
    """Nothing is installed in the time of a test."""
    if not (all(environments.is_made(recipe.name) for recipe in environments.RECIPES) and models.are_made()):
        pytest.fail("the environments are missing or of another recipe: python -m tests.vllm makes them", pytrace=False)


@pytest.fixture(scope="session")
def plain_python() -> Path:
    """vLLM 0.32 for CPUs, without plugins."""
    return environments.python_of("plain")


@pytest.fixture(scope="session")
def plugins_python() -> Path:
    """The same with the GGUF and bitsandbytes plugins."""
    return environments.python_of("plugins")


@pytest.fixture(scope="session")
def cuda_python() -> Path:
    """vLLM 0.33 for CUDA on a machine without it."""
    return environments.python_of("cuda")


@pytest.fixture(scope="session")
def keeper(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Keeper]:
    kept = Keeper(tmp_path_factory.mktemp("programs"))
    yield kept
    kept.close()


@pytest.fixture
def chain(keeper: Keeper) -> Chain:
    """vLLM with the stand-in serves, llama.cpp would follow. Shared by all tests that leave it as it is."""
    shared = keeper.chain("shared", service(vllm()))
    shared.serves_with(VLLM)
    return shared


@pytest.fixture
def client(chain: Chain) -> Client:
    return chain.client


@pytest.fixture
def mortal(keeper: Keeper) -> Chain:
    """vLLM serves; whatever a test did to it before, it has come back, even if nobody had noticed yet."""
    found = keeper.chain("mortal", service(vllm(), failover=FAILOVER))
    found.serves_with(VLLM)
    until(lambda: found.processes_of_vllm().keys() == PROCESSES, within_s=LOAD_S, what="vLLM with all its processes")
    found.serves_with(VLLM)
    return found
