"""systemd is told when the listeners are up and when the end begins."""

from __future__ import annotations

import secrets
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from gguf_server import systemd
from tests.e2e.program import environment, free_ports


@pytest.fixture(params=["path", "abstract"])
def manager(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[socket.socket, dict[str, str]]]:
    """A listening socket and the environment that names it."""
    named = str(tmp_path / "notify") if request.param == "path" else f"@{secrets.token_hex(8)}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listening:
        listening.bind(named.replace("@", "\0"))
        listening.settimeout(5)
        yield listening, {"NOTIFY_SOCKET": named}


def test_readiness_and_the_end_are_told(manager: tuple[socket.socket, dict[str, str]]) -> None:
    listening, environ = manager
    systemd.tell_ready(2, environ)
    assert listening.recv(4096).decode().split("\n") == ["READY=1", "STATUS=listening, 2 services"]
    systemd.tell_stopping(30.0, environ)
    said = listening.recv(4096).decode().split("\n")
    assert said[0] == "STOPPING=1"
    assert "EXTEND_TIMEOUT_USEC=90000000" in said


@pytest.mark.parametrize("address", [None, "", "relative", "/nowhere/at/all"])
def test_without_a_manager_nothing_happens(address: str | None) -> None:
    systemd.tell_ready(1, {} if address is None else {"NOTIFY_SOCKET": address})


def test_the_program_tells_when_it_listens_and_when_it_ends(tmp_path: Path) -> None:
    named = str(tmp_path / "notify")
    (port,) = free_ports(1)
    env = {
        **environment(tmp_path, "a-key"),
        "NOTIFY_SOCKET": named,
        "GGUF_SERVER_SERVICES__DEMO__WEIGHTS": "/none.gguf",
    }
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listening:
        listening.bind(named)
        listening.settimeout(30)
        line = [sys.executable, "-m", "gguf_server", "serve", "--preset", "demo", "--port", str(port)]
        with subprocess.Popen(line, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
            try:
                assert listening.recv(4096).startswith(b"READY=1\n")
                process.terminate()
                assert listening.recv(4096).startswith(b"STOPPING=1\n")
                assert process.wait(30) == 0
            finally:
                process.kill()
