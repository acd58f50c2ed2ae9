"""A worker that serves what vLLM served when it was recorded."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.backends.llamacpp.worker import MODEL as SMOLLM2
from tests.backends.llamacpp.worker import started
from tests.parity.case import MODEL, N_CTX
from tests.parity.observe import Observation
from tests.parity.record import observe_all
from tests.vllm.stand_in import Source, write_gguf

TEMPLATE = Path(__file__).parents[1] / "vllm" / "thinker.jinja"


@pytest.fixture(scope="session")
def answers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Observation]]:
    """The worker's, to the whole suite, by the name of the case."""
    path = tmp_path_factory.mktemp("parity") / "thinker.gguf"
    write_gguf(Source(SMOLLM2, TEMPLATE.read_text()), path)
    with started("--alias", MODEL, "--n-ctx", str(N_CTX), "--n-parallel", "8", model=path) as worker:
        yield asyncio.run(observe_all(f"unix:{worker.socket}", together=8))
