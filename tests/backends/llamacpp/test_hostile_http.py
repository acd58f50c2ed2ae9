"""What is hardly HTTP is the client's mistake, and is not printed."""

from __future__ import annotations

import socket

import orjson
import pytest

from backends.json_body import read_json
from tests.backends.llamacpp.worker import started

SECRET = b"streng-geheim"
CHAT = b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nConnection: close\r\n"


def test_the_worker_repeats_nothing_of_what_it_cannot_read() -> None:
    with started("--n-ctx", "256") as worker:

        def status(sent: bytes) -> bytes:
            with socket.socket(socket.AF_UNIX) as wire:
                wire.connect(str(worker.socket))
                wire.sendall(sent)
                with wire.makefile("rb") as answer:
                    return answer.readline().split()[1]

        assert status(b"GET /" + SECRET * 2000 + b" HTTP/1.1\r\n\r\n") == b"400"
        assert status(CHAT + b"X: " + SECRET + b"\x00\r\n\r\n") == b"400"
        assert status(CHAT + b"Content-Encoding: gzip\r\nContent-Length: 13\r\n\r\n" + SECRET) == b"400"
        deep = b'{"metadata": ' + b"[" * 500 + b"]" * 500 + b"}"
        assert status(CHAT + b"Content-Length: %d\r\n\r\n" % len(deep) + deep) == b"400"
        printed = worker.log.read_bytes()
    assert SECRET not in printed
    assert b"Traceback" not in printed
    assert b"unexpected" not in printed


@pytest.mark.parametrize("depth", [300, 1000])
def test_json_that_could_not_be_passed_on_is_refused(depth: int) -> None:
    with pytest.raises(ValueError, match="nested too deeply"):
        read_json(b"[" * depth + b"]" * depth)


def test_braces_in_a_text_are_no_depth() -> None:
    text = "[{" * 5000
    assert read_json(orjson.dumps([text, 1])) == [text, 1]
