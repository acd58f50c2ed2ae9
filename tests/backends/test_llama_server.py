from __future__ import annotations

import signal
import stat
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from backends.base import Dialect, EngineFailure, EngineState, FailureReason
from backends.llama_server import (
    LlamaServerSpec,
    argv,
    check_card,
    classify,
    environment,
    find_binary,
    launch_plan,
    llama_server_engine,
)

SPEC = LlamaServerSpec(weights="model.gguf", alias="demo", runtime_dir=Path("run"), n_ctx=2048)
MODEL, SOCKET = Path("model.gguf"), Path("run/1.sock")

# Takes llama-server's arguments and is the fake engine.
FAKE = """#!{python}
import os, sys
line = sys.argv[1:]
def given(name):
    return line[line.index(name) + 1]
os.environ["FAKE_ENGINE_KEY"] = os.environ["LLAMA_API_KEY"]
fake = [sys.executable, "-m", "tests.backends.fake_engine", "--uds", given("--host"), "--model", given("--alias")]
os.execv(sys.executable, fake)
"""


@pytest.fixture
def folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="engine-") as path:  # shorter than tmp_path: a socket's path is limited
        yield Path(path)


def program(folder: Path, text: str) -> str:
    path = folder / "llama-server"
    path.write_text(text)
    path.chmod(0o700)
    return str(path)


def runnable(folder: Path, text: str = FAKE.replace("{python}", sys.executable)) -> LlamaServerSpec:
    weights = folder / "model.gguf"
    weights.touch()
    return replace(SPEC, weights=str(weights), binary=program(folder, text), runtime_dir=folder / "run")


def line_of(spec: LlamaServerSpec, mmproj: Path | None = None) -> tuple[str, ...]:
    return argv(spec, binary="llama-server", model=MODEL, mmproj=mmproj, socket=SOCKET)


def names_in(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir()]


def option(line: tuple[str, ...], name: str) -> str:
    return line[line.index(name) + 1]


def test_command_line_of_a_plain_specification() -> None:
    line = line_of(SPEC)
    assert line[0] == "llama-server"
    assert option(line, "--model") == "model.gguf"
    assert option(line, "--alias") == "demo"
    assert option(line, "--host") == "run/1.sock"
    assert option(line, "--n-gpu-layers") == "999"
    assert option(line, "--reasoning-format") == "deepseek"
    assert {"--jinja", "--metrics", "--no-context-shift"} < set(line)
    assert {"--mmproj", "--threads", "--device", "--chat-template-file"}.isdisjoint(line)


def test_context_of_all_requests_is_what_is_asked_for() -> None:
    line = line_of(replace(SPEC, n_parallel=3))
    assert (option(line, "--ctx-size"), option(line, "--parallel")) == ("6144", "3")


def test_command_line_of_a_full_specification() -> None:
    spec = replace(SPEC, n_threads=2, n_gpu_layers=20, device="cpu", extra_args=("--no-mmap", "-fa", "on"))
    spec = replace(spec, chat_template_file=Path("t.jinja"), reasoning_format="none")
    line = line_of(spec, Path("eyes.gguf"))
    assert option(line, "--threads") == "2"
    assert option(line, "--n-gpu-layers") == "20"
    assert option(line, "--device") == "none"
    assert option(line, "--mmproj") == "eyes.gguf"
    assert option(line, "--chat-template-file") == "t.jinja"
    assert option(line, "--reasoning-format") == "none"
    assert line[-3:] == ("--no-mmap", "-fa", "on")


def test_what_clients_send_is_not_logged() -> None:
    assert option(line_of(SPEC), "--verbosity") == "1"


def test_environment_holds_the_key_and_hides_the_cards_that_are_not_its_own() -> None:
    env = environment(replace(SPEC, cuda_device=1), "key", {"HOME": "/home", "LLAMA_API_KEY": "another"})
    assert (env["LLAMA_API_KEY"], env["HOME"]) == ("key", "/home")
    assert (env["CUDA_VISIBLE_DEVICES"], env["CUDA_DEVICE_ORDER"]) == ("1", "PCI_BUS_ID")
    assert environment(replace(SPEC, device="cpu"), "key", {})["CUDA_VISIBLE_DEVICES"] == ""
    assert "CUDA_VISIBLE_DEVICES" not in environment(SPEC, "key", {})
    assert env["LLAMA_ARG_UI"] == "0"


def test_each_plan_has_its_own_key_and_socket_and_hides_the_key(folder: Path) -> None:
    spec = runnable(folder)
    one, other = launch_plan(spec), launch_plan(spec)
    assert one.endpoint.api_key != other.endpoint.api_key
    assert one.endpoint.uds_path != other.endpoint.uds_path
    assert one.env["LLAMA_API_KEY"] == one.endpoint.api_key
    assert not any(one.endpoint.api_key in word for word in one.argv)
    assert option(one.argv, "--host") == one.endpoint.uds_path
    assert str(one.endpoint.uds_path).endswith(".sock")  # which is how it tells a socket from a name
    assert (one.endpoint.dialect, one.endpoint.continues_reasoning) == (Dialect.LLAMA_SERVER, True)
    assert stat.S_IMODE(spec.runtime_dir.stat().st_mode) == 0o700


def test_binary_is_found_on_the_path_or_where_it_is_said_to_be(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    binary = program(folder, "#!/bin/sh\n")
    monkeypatch.setenv("PATH", str(folder))
    assert find_binary("llama-server") == find_binary(binary) == binary


@pytest.mark.parametrize("binary", ["llama-server", "/nowhere/llama-server"])
async def test_engine_without_its_binary_fails_before_anything_is_started(
    folder: Path, monkeypatch: pytest.MonkeyPatch, binary: str
) -> None:
    monkeypatch.setenv("PATH", str(folder))
    engine = llama_server_engine(replace(SPEC, binary=binary, runtime_dir=folder))
    with pytest.raises(EngineFailure, match="comes with llama") as caught:
        await engine.start()
    assert caught.value.reason is FailureReason.NOT_INSTALLED
    assert engine.state is EngineState.FAILED
    assert (engine.name, engine.kind) == ("llama-server", "llama-server")


@pytest.mark.parametrize("field", ["weights", "mmproj"])
def test_missing_file_is_told_before_anything_is_started(folder: Path, field: str) -> None:
    spec = runnable(folder)
    spec = replace(spec, weights="/nowhere.gguf") if field == "weights" else replace(spec, mmproj="/nowhere.gguf")
    with pytest.raises(EngineFailure, match=r"/nowhere\.gguf") as caught:
        launch_plan(spec)
    assert caught.value.reason is FailureReason.WEIGHTS_MISSING


def test_path_too_long_for_a_socket_is_refused(folder: Path) -> None:
    spec = replace(runnable(folder), runtime_dir=folder / ("x" * 100))
    with pytest.raises(EngineFailure, match="too long for a socket") as caught:
        launch_plan(spec)
    assert caught.value.reason is FailureReason.INVALID_SETTINGS


def test_runtime_directory_that_cannot_be_made_is_refused(folder: Path) -> None:
    spec = runnable(folder)
    with pytest.raises(EngineFailure, match="no runtime directory"):
        launch_plan(replace(spec, runtime_dir=Path(spec.weights) / "run"))


def test_card_that_is_demanded_has_to_be_seen_by_the_binary(folder: Path) -> None:
    seen = program(folder, "#!/bin/sh\necho 'Available devices:'\necho '  CUDA0: NVIDIA (16000 MiB, 15000 MiB free)'\n")
    check_card(seen, {})
    unseen = program(folder, "#!/bin/sh\necho 'Available devices:'\necho '  (none)'\n")
    with pytest.raises(EngineFailure, match="sees no CUDA device") as caught:
        check_card(unseen, {})
    assert caught.value.reason is FailureReason.NO_GPU


def test_plan_that_demands_a_card_asks_for_it_and_another_does_not(folder: Path) -> None:
    spec = runnable(folder, "#!/bin/sh\nexit 0\n")
    with pytest.raises(EngineFailure, match="sees no CUDA device"):
        launch_plan(replace(spec, device="cuda"))
    launch_plan(spec)


def test_program_that_cannot_be_run_is_not_installed(folder: Path) -> None:
    with pytest.raises(EngineFailure, match="does not answer") as caught:
        check_card(program(folder, "not a program"), {})
    assert caught.value.reason is FailureReason.NOT_INSTALLED


async def test_engine_becomes_ready_on_its_socket_and_leaves_nothing_behind(folder: Path) -> None:
    spec = runnable(folder)
    engine = llama_server_engine(spec)
    await engine.start()
    assert names_in(spec.runtime_dir) == [Path(engine.endpoint.uds_path or "").name]
    await engine.stop()
    assert names_in(spec.runtime_dir) == []


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ('error while handling argument "--device": invalid device: CUDA0', "no_gpu"),
        ("0.1 E alloc: allocating 1.00 MiB on device 0: cudaMalloc failed: out of memory", "out_of_memory"),
        ("0.00.241.404 E ggml_aligned_malloc: insufficient memory (attempted to allocate 9.25 MB)", "out_of_memory"),
        ("0.00.004.221 E gguf_init_from_file: failed to open GGUF file 'a' (No such file)", "weights_missing"),
        ("0.00.036.626 E llama_model_load: error loading model: unknown model architecture: 'x'", "unsupported_model"),
        ("0.00.012.809 E load: tensor 'a' data is not within the file bounds, model is corrupted", "weights_damaged"),
        ("0.00.003.963 E gguf_init_from_reader: invalid magic characters: 'hell'", "weights_damaged"),
        ("error: invalid argument: --nope", "invalid_settings"),
        ('error while handling argument "-c": stoi', "invalid_settings"),
        ("error: the supplied chat template is not supported: {% if", "invalid_settings"),
        ("0.00.002.126 E srv start: couldn't bind HTTP server socket, hostname: a.sock", "invalid_settings"),
    ],
)
def test_reason_of_an_end_is_read_from_the_log(line: str, reason: str) -> None:
    last = "0.00.267.364 E srv  llama_server: exiting due to model loading error"
    failure = classify(1, ("0.0 I srv llama_server: initializing", line, last))
    assert failure.reason == reason
    assert failure.detail in line
    assert not failure.detail.startswith("0.")


def test_file_that_is_missing_goes_before_the_model_that_was_not_loaded() -> None:
    tail = ("E failed to open GGUF file '/a.gguf'", "E llama_model_load: error loading model: failed to load")
    assert classify(1, tail).reason is FailureReason.WEIGHTS_MISSING


@pytest.mark.parametrize(
    ("exit_code", "line", "detail"),
    [
        (-signal.SIGKILL, "I loading", "killed (SIGKILL), perhaps by the kernel for memory"),
        (-signal.SIGABRT, "x.cpp:1: GGML_ASSERT(a) failed", "killed by SIGABRT: x.cpp:1: GGML_ASSERT(a) failed"),
        (0, "I all is well", "ended with exit code 0"),
        (1, "E CUDA error: an illegal memory access", "ended with exit code 1: E CUDA error: an illegal memory access"),
    ],
)
def test_any_other_end_is_a_crash(exit_code: int, line: str, detail: str) -> None:
    failure = classify(exit_code, (line,))
    assert (failure.reason, failure.detail, failure.exit_code) == (FailureReason.CRASHED, detail, exit_code)
