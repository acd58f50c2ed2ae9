"""A real Redis of the tests' own."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest


class RedisServer:
    """`redis-server` (or `valkey-server`) on a UNIX socket, without anything on disk. Started and ended at will."""

    def __init__(self, program: str, folder: Path, *flags: str) -> None:
        self._argv = [program, "--port", "0", "--unixsocket", str(folder / "redis.sock"), "--save", "", *flags]
        self._folder = folder
        self.url = f"unix://{folder}/redis.sock"
        self._process: subprocess.Popen[str] | None = None

    def start(self) -> None:
        """Returns when it takes connections."""
        self._process = subprocess.Popen(self._argv, cwd=self._folder, stdout=subprocess.PIPE, text=True)
        assert self._process.stdout is not None
        said = []
        for line in self._process.stdout:
            said.append(line)
            if "ready to accept connections" in line.lower():
                return
        pytest.fail(f"{self._argv[0]} ended: {''.join(said)}")

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.communicate()
            self._process = None

    def freeze(self) -> None:
        assert self._process is not None
        os.kill(self._process.pid, signal.SIGSTOP)

    def thaw(self) -> None:
        assert self._process is not None
        os.kill(self._process.pid, signal.SIGCONT)


@pytest.fixture
def redis_flags() -> tuple[str, ...]:
    return ()


@pytest.fixture
def redis_server(redis_flags: tuple[str, ...]) -> Iterator[RedisServer]:
    program = shutil.which("redis-server") or shutil.which("valkey-server")
    if program is None:
        pytest.skip("no redis-server or valkey-server on this machine")
    with tempfile.TemporaryDirectory(prefix="redis-") as folder:
        server = RedisServer(program, Path(folder), *redis_flags)
        server.start()
        try:
            yield server
        finally:
            server.kill()
