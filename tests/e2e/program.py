"""`gguf-server serve` as a process of its own: its folder, its ports, its log, its end."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import TypeVar

import psutil
import requests

KEY = "e2e-key-of-the-first-client"
OTHER_KEY = "e2e-key-of-the-second-client"

PROGRAM = str(Path(sys.executable).with_name("gguf-server"))
WORKER = ["-m", "backends.llamacpp"]
START_S = 60.0

Found = TypeVar("Found")


def until(look: Callable[[], Found | None], *, within_s: float = 20.0, what: str = "it") -> Found:
    """What `look` returns, once that is not None or False. Fails the test when it takes longer."""
    deadline = time.monotonic() + within_s
    while time.monotonic() < deadline:
        found = look()
        if found is not None and found is not False:
            return found
        time.sleep(0.02)
    raise AssertionError(f"{what} did not happen within {within_s:g} s")


def free_ports(n: int) -> list[int]:
    """Distinct ports that nobody listens on just now."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(n)]
    ports = [int(sock.getsockname()[1]) for sock in sockets]
    for sock in sockets:
        sock.close()
    return ports


def environment(folder: Path, keys: str | None) -> dict[str, str]:
    """Nothing of the machine's own configuration, and state in `folder`."""
    env = {name: value for name, value in os.environ.items() if not name.startswith("GGUF_SERVER_")}
    env["XDG_STATE_HOME"] = str(folder / "state")
    return env if keys is None else {**env, "GGUF_SERVER_API_KEYS": keys}


def run_command(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """`gguf-server` with these arguments, to its end."""
    env = environment(folder, None)
    return subprocess.run([PROGRAM, *arguments], cwd=folder, env=env, capture_output=True, text=True, timeout=30)


@dataclass(frozen=True, slots=True)
class Program:
    """One running server. `log` holds all it ever printed, `own_ports` where services are at the root."""

    process: subprocess.Popen[bytes]
    folder: Path
    port: int
    log: Path
    own_ports: Mapping[str, int]

    def url(self, path: str = "", *, service: str | None = None) -> str:
        """`path` on the shared listener, or on the own port of `service`."""
        return f"http://127.0.0.1:{self.own_ports[service] if service else self.port}{path}"

    def printed(self) -> str:
        return self.log.read_text(encoding="utf-8", errors="replace")

    def answers(self, path: str) -> requests.Response | None:
        """The answer to GET `path`; None while nobody listens."""
        try:
            return requests.get(self.url(path), timeout=10)
        except requests.ConnectionError:
            if self.process.poll() is not None:
                raise AssertionError(f"the server ended with {self.process.returncode}:\n{self.printed()}") from None
            return None

    def listens(self) -> requests.Response:
        """The first answer of the shared listener."""
        return until(lambda: self.answers("/health"), within_s=START_S, what="listening")

    def becomes_ready(self, *mounts: str) -> None:
        def is_ready(mount: str) -> bool:
            answer = self.answers(f"{mount}/health")
            return answer is not None and answer.status_code == 200

        for mount in mounts or ("",):
            until(lambda mount=mount: is_ready(mount), within_s=START_S, what=f"{mount}/health of 200")  # type: ignore[misc]

    def descendants(self) -> list[psutil.Process]:
        return psutil.Process(self.process.pid).children(recursive=True)

    def worker(self) -> psutil.Process:
        """The llama.cpp process of a server that has one service."""

        def is_worker(process: psutil.Process) -> bool:
            try:
                return process.cmdline()[1:3] == WORKER
            except psutil.Error:
                return False

        (found,) = filter(is_worker, self.descendants())
        return found

    def terminate(self) -> None:
        self.process.send_signal(signal.SIGTERM)

    def ends(self, *, within_s: float = 30.0) -> int:
        """The exit status, once there is one."""
        return self.process.wait(within_s)


@contextmanager
def serving(
    folder: Path,
    *arguments: str,
    keys: str | None = KEY,
    port: int | None = None,
    own_ports: Mapping[str, int] = MappingProxyType({}),
) -> Iterator[Program]:
    """A started server, not yet ready. Whatever is left of it at the end is a failure."""
    port = port or free_ports(1)[0]
    log = folder / "server.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [PROGRAM, "serve", "--port", str(port), *arguments],
            cwd=folder,
            env=environment(folder, keys),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    program = Program(process, folder, port, log, own_ports)
    children: list[psutil.Process] = []
    try:
        yield program
        if process.poll() is None:
            children = program.descendants()
            program.terminate()
            assert program.ends() == 0, program.printed()
    finally:
        if process.poll() is None:
            children = program.descendants()
            process.kill()
            process.wait()
        _, left = psutil.wait_procs(children, timeout=10)
    assert not left
