"""vLLM still answers as it did when it was recorded for `tests/parity`."""

from __future__ import annotations

import asyncio
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from tests.e2e.program import until
from tests.parity.case import MODEL, N_CTX
from tests.parity.differences import differences
from tests.parity.observe import Observation
from tests.parity.record import connect, observe_all, recorded
from tests.vllm.chains import ENVIRONMENT, LOAD_S, Keeper
from tests.vllm.models import THINKER


def command(python: Path, socket: Path) -> list[str]:
    line = [str(python), "-m", "vllm.entrypoints.cli.main", "serve", str(THINKER), "--served-model-name", MODEL]
    line += ["--uds", str(socket), "--dtype", "bfloat16", "--max-model-len", str(N_CTX), "--max-num-seqs", "4"]
    line += ["--enforce-eager", "--reasoning-parser", "qwen3", "--enable-auto-tool-choice"]
    return [*line, "--tool-call-parser", "hermes", "--enable-prompt-tokens-details"]


@pytest.fixture(scope="module")
def answers(
    plain_python: Path, keeper: Keeper, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[dict[str, Observation]]:
    """Of a vLLM of our own, to the whole suite."""
    keeper.close()
    folder = tmp_path_factory.mktemp("v")
    socket = folder / "s"
    env = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    env |= {**ENVIRONMENT, "VLLM_PLUGINS": "", "VLLM_NO_USAGE_STATS": "1", "DO_NOT_TRACK": "1", "PYTHONSAFEPATH": "1"}
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            command(plain_python, socket), cwd=folder, env=env, stdin=subprocess.DEVNULL, stdout=log, stderr=log
        )
        try:
            until(lambda: asyncio.run(_is_ready(socket)), within_s=LOAD_S, what="vLLM")
            yield asyncio.run(observe_all(f"unix:{socket}", together=1))
        finally:
            children = psutil.Process(process.pid).children(recursive=True)
            process.terminate()
            process.wait(timeout=30)
            for child in psutil.wait_procs(children, timeout=10)[1]:
                child.kill()


async def _is_ready(socket: Path) -> bool:
    try:
        async with connect(f"unix:{socket}") as session, session.get("/health") as answer:
            return answer.status == 200
    except OSError:
        return False


def test_vllm_answers_as_it_was_recorded(answers: dict[str, Observation]) -> None:
    found = [each for name, seen in recorded().items() for each in differences(name, seen, answers[name])]
    assert not found, "\n".join([*map(str, found), "python -m tests.parity.record URL records it anew"])
