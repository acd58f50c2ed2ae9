"""How a worker comes up, who may speak to it, and how it goes."""

from __future__ import annotations

import asyncio
import ctypes
import json
import signal
import stat
import struct
import subprocess
import sys
from pathlib import Path

import pytest

from backends.base import FailureReason
from tests.backends.llamacpp.worker import MODEL, failing_run, spawned, started, until


def failure(exit_code: int, stderr: str) -> tuple[str, str]:
    """(reason, detail) of the one line that a worker ends with."""
    assert exit_code == 3, stderr
    assert "Traceback" not in stderr, stderr
    (line,) = [line for line in stderr.splitlines() if line.startswith("ENGINE_FAILURE ")]
    assert line == stderr.splitlines()[-1]
    told = json.loads(line.removeprefix("ENGINE_FAILURE "))
    assert set(told) == {"reason", "detail"}
    assert told["reason"] in set(FailureReason)
    return told["reason"], told["detail"]


def with_value(model: bytes, key: str, value: bytes) -> bytes:
    """The bytes of a GGUF whose 32-bit `key` has another value."""
    name = struct.pack("<Q", len(key)) + key.encode()
    at = model.index(name) + len(name) + 4
    return model[:at] + value + model[at + len(value) :]


def test_health_tells_the_progress_of_loading_until_it_is_ready() -> None:
    with spawned("--n-ctx", "256") as worker:
        before = asyncio.run(worker.wait_ready())
        assert before, "it was ready before it could be asked"
        assert all(answer["http"] == 503 and answer["status"] == "starting" for answer in before)
        progress = [answer["progress"] for answer in before]
        assert progress == sorted(progress)
        assert all(0 <= fraction <= 1 for fraction in progress)
        assert stat.S_IMODE(worker.socket.stat().st_mode) == 0o600


def test_requests_before_it_is_ready_are_refused_and_stopping_then_is_clean() -> None:
    async def ask() -> None:
        async def refused() -> bool:
            if not worker.socket.exists():
                return False
            async with worker.client() as client:
                status, answer = await client.post("/v1/completions", {"prompt": "x"})
            assert (status, answer["error"]["code"]) == (503, "engine_not_ready")
            return True

        await until(refused)

    with spawned("--n-ctx", "256") as worker:
        asyncio.run(ask())


def test_key_is_wanted_everywhere_but_for_health() -> None:
    async def ask() -> None:
        async with worker.client() as client:
            assert (await client.complete("x", max_tokens=1))["usage"]["completion_tokens"] == 1
            for given in ("Bearer wrong", "Bearer ", "Bearer secret-ke", "", "Bearer sécret", "Bearer \udcff"):
                for path in ("/v1/chat/completions", "/v1/nowhere"):
                    status, error = await client.error(path, {}, Authorization=given)
                    assert (status, error["code"]) == (401, "invalid_api_key")
            async with client.session.get("/health", headers={"Authorization": ""}) as response:
                assert response.status == 200
            async with client.session.get("/metrics", headers={"Authorization": ""}) as response:
                assert response.status == 401

    with started("--n-ctx", "256", api_key="secret-key") as worker:
        asyncio.run(ask())


def test_stop_in_the_middle_of_an_answer_is_obeyed() -> None:
    async def ask() -> None:
        async with worker.client() as client:
            body = {"prompt": "Once", "max_tokens": 200, "ignore_eos": True, "stream": True}
            async with client.session.post("/v1/completions", json=body) as response:
                assert await response.content.readline()
                worker.process.send_signal(signal.SIGTERM)
                assert await asyncio.to_thread(worker.process.wait, 9) == 0

    with started("--n-ctx", "256") as worker:
        asyncio.run(ask())


def test_more_sequences_than_batch_rows_are_served() -> None:
    async def ask() -> None:
        async with worker.client() as client:
            prompts = [f"{i} things" for i in range(6)]
            answer = await client.ok("/v1/completions", {"prompt": prompts, "max_tokens": 4, "ignore_eos": True})
            assert answer["usage"]["completion_tokens"] == 24

    with started("--n-ctx", "256", "--n-parallel", "6", "--n-batch", "2") as worker:
        asyncio.run(ask())


def test_one_pool_of_cells_for_all_is_shared_and_preempted_answers_are_whole() -> None:
    async def ask() -> None:
        async with worker.client() as client:
            body = {"max_tokens": 30, "ignore_eos": True, "seed": 1}
            several = [client.complete([1000 + i] * 60, **body) for i in range(4)]
            answers = await asyncio.gather(*several)
            assert [answer["usage"]["completion_tokens"] for answer in answers] == [30] * 4
            metrics = await client.metrics()
            assert metrics["preemptions_total"] > 0
            assert metrics["failed_steps_total"] == 0

    with started("--n-ctx", "256", "--n-parallel", "4", "--n-ctx-total", "256") as worker:
        asyncio.run(ask())


@pytest.mark.parametrize(
    ("content", "reason", "detail"),
    [
        (b"", "weights_damaged", "model.gguf is not a GGUF"),
        (b"<html>404</html>", "weights_damaged", "model.gguf is not a GGUF"),
        (b"GGUF\x07\0\0\0", "unsupported_model", "version 7"),
        (b"GGUF\x03\0\0\0", "weights_damaged", "failed to read"),
    ],
)
def test_file_that_is_no_model_is_told_apart(tmp_path: Path, content: bytes, reason: str, detail: str) -> None:
    model = tmp_path / "model.gguf"
    model.write_bytes(content)
    told = failure(*failing_run(model=model))
    assert told[0] == reason
    assert detail in told[1]


def test_missing_file_is_missing() -> None:
    reason, detail = failure(*failing_run(model=Path("/nowhere/model.gguf")))
    assert (reason, detail) == ("weights_missing", "there is no file /nowhere/model.gguf")


def test_directory_is_no_file(tmp_path: Path) -> None:
    assert failure(*failing_run(model=tmp_path))[0] == "weights_missing"


@pytest.mark.parametrize("n_bytes", [1024, 49_000_000, -(1 << 20)])
def test_download_that_was_cut_short_is_damaged(tmp_path: Path, model_bytes: bytes, n_bytes: int) -> None:
    model = tmp_path / "model.gguf"
    model.write_bytes(model_bytes[:n_bytes])
    reason, detail = failure(*failing_run(model=model))
    assert reason == "weights_damaged"
    assert "failed to read" in detail or "not within the file bounds" in detail


def test_architecture_nobody_knows_is_named(tmp_path: Path, model_bytes: bytes) -> None:
    model = tmp_path / "model.gguf"
    key = b"general.architecture" + struct.pack("<IQ", 8, 5)
    model.write_bytes(model_bytes.replace(key + b"llama", key + b"llumb", 1))
    reason, detail = failure(*failing_run(model=model))
    assert reason == "unsupported_model"
    assert "unknown model architecture: 'llumb'" in detail


def test_assertion_that_fails_in_c_is_told_before_the_end(tmp_path: Path, model_bytes: bytes) -> None:
    model = tmp_path / "model.gguf"
    model.write_bytes(with_value(model_bytes, "llama.block_count", struct.pack("<I", 60_000)))
    reason, detail = failure(*failing_run(model=model))
    assert reason == "crashed"
    assert "GGML_ASSERT(hparams.n_layer" in detail


def test_abort_of_any_library_under_llama_is_told() -> None:
    script = (
        "import ctypes, llama_cpp; from backends.llamacpp import native, __main__ as worker;"
        "native.on_abort(worker._report_abort);"
        "llama_cpp.llama_cpp._lib.ggml_abort(b'file.c', ctypes.c_int(1), b'no reason')"
    )
    ended = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False, timeout=9)
    assert failure(ended.returncode, ended.stderr) == ("crashed", "llama.cpp gave up: file.c:1: no reason")
    assert ctypes.sizeof(ctypes.c_int) == 4


def test_card_that_is_not_there_is_said_so() -> None:
    assert failure(*failing_run("--device", "cuda"))[0] == "no_gpu"


def test_context_larger_than_memory_is_out_of_memory() -> None:
    """The limit on the process keeps the request for 11 GB from being granted on a machine that has them."""
    reason, detail = failure(*failing_run("--n-ctx-total", "500000", max_memory_bytes=4 << 30))
    assert reason == "out_of_memory"
    assert "failed to allocate" in detail


@pytest.mark.parametrize("content", [None, b"\xff\xfe"])
def test_template_file_that_cannot_be_read_is_a_wrong_setting(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "chat.jinja"
    if content is not None:
        path.write_bytes(content)
    reason, detail = failure(*failing_run("--n-ctx", "256", "--chat-template-file", str(path)))
    assert reason == "invalid_settings"
    assert "template" in detail


def test_socket_that_cannot_be_made_is_a_wrong_setting(tmp_path: Path) -> None:
    reason, detail = failure(*failing_run("--uds", str(tmp_path / "no" / "folder" / "s"), model=MODEL))
    assert (reason, detail) == ("invalid_settings", "cannot listen: No such file or directory")


@pytest.mark.parametrize("flags", [("--n-ctx", "0"), ("--n-parallel", "-1"), ("--device", "tpu"), ("--what",)])
def test_arguments_that_make_no_sense_end_with_usage(flags: tuple[str, ...]) -> None:
    exit_code, stderr = failing_run(*flags)
    assert exit_code == 2
    assert "usage:" in stderr
