from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from functools import cache
from pathlib import Path

import pytest

from tests import models
from tests.backends.llamacpp.worker import MODEL, Client, Worker, started


@pytest.fixture(scope="session")
def worker() -> Iterator[Worker]:
    """The worker that tests share which need nothing special. It has to be idle when the last one has gone."""
    with started("--n-ctx", "1024", "--n-parallel", "16") as worker:
        yield worker


@pytest.fixture
async def client(worker: Worker) -> AsyncIterator[Client]:
    async with worker.client() as client:
        yield client


@pytest.fixture(scope="session")
def model_bytes() -> bytes:
    return MODEL.read_bytes()


@pytest.fixture(scope="session")
def model_without_template(tmp_path_factory: pytest.TempPathFactory, model_bytes: bytes) -> Path:
    """A copy whose chat template goes by a name that nobody reads."""
    path = tmp_path_factory.mktemp("model") / "bare.gguf"
    path.write_bytes(model_bytes.replace(b"tokenizer.chat_template", b"tokenizer.cat_templates", 1))
    return path


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The file of a model of `tests.models`, by name; each is made once."""
    folder = tmp_path_factory.mktemp("models")

    @cache
    def made(name: str) -> Path:
        return models.write(name, folder / f"{name}.gguf")

    return made
