from __future__ import annotations

import json
import signal
import stat
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from backends.base import EngineFailure, EngineState, FailureReason
from backends.llamacpp_engine import LlamaCppSpec, argv, classify, environment, launch_plan, llamacpp_engine
from backends.readiness import smallest_request

SPEC = LlamaCppSpec(weights="model.gguf", alias="demo", runtime_dir=Path("run"), n_ctx=2048)
MODEL, SOCKET = Path("model.gguf"), Path("run/1.sock")


def option(line: tuple[str, ...], name: str) -> str:
    return line[line.index(name) + 1]


def test_command_line_of_a_plain_specification() -> None:
    line = argv(SPEC, model=MODEL, socket=SOCKET)
    assert line[:3] == (sys.executable, "-m", "backends.llamacpp")
    assert option(line, "--model") == "model.gguf"
    assert option(line, "--alias") == "demo"
    assert option(line, "--uds") == "run/1.sock"
    assert option(line, "--n-ctx") == "2048"
    assert option(line, "--n-gpu-layers") == "-1"
    absent = {"--n-ctx-total", "--threads", "--chat-template-file", "--no-mmap", "--embedding", "--matryoshka"}
    assert absent.isdisjoint(line)


def test_command_line_of_a_full_specification() -> None:
    spec = replace(
        SPEC,
        n_ctx_total=8192,
        n_threads=2,
        use_mmap=False,
        chat_template_file=Path("t.jinja"),
        cache_type_k="q8_0",
        cache_ram_mib=0,
        speculation="lookup",
    )
    line = argv(spec, model=MODEL, socket=SOCKET)
    assert option(line, "--n-ctx-total") == "8192"
    assert option(line, "--threads") == "2"
    assert option(line, "--chat-template-file") == "t.jinja"
    assert option(line, "--cache-ram-mib") == "0"
    assert option(line, "--speculation") == "lookup"
    assert option(line, "--cache-type-k") == "q8_0"
    assert line[-1] == "--no-mmap"


def test_engine_for_embeddings_is_told_so_and_asked_for_a_vector_first(tmp_path: Path) -> None:
    (tmp_path / "model.gguf").touch()
    spec = replace(
        SPEC, weights=str(tmp_path / "model.gguf"), runtime_dir=tmp_path / "run", embeds=True, matryoshka=True
    )
    plan = launch_plan(spec)
    assert plan.argv[-2:] == ("--embedding", "--matryoshka")
    assert smallest_request(plan.endpoint) == ("/v1/embeddings", {"input": "Hi"})


def test_command_line_of_a_model_that_sees() -> None:
    spec = replace(SPEC, images_per_prompt=3, image_hosts=("a.example", "b.example"), private_image_hosts=True)
    line = argv(spec, model=MODEL, socket=SOCKET, mmproj=Path("eyes.gguf"))
    assert option(line, "--mmproj") == "eyes.gguf"
    assert option(line, "--images-per-prompt") == "3"
    assert [line[i + 1] for i, text in enumerate(line) if text == "--image-host"] == ["a.example", "b.example"]
    assert line[-1] == "--private-image-hosts"
    assert not [text for text in argv(spec, model=MODEL, socket=SOCKET) if "image" in text or "mmproj" in text]


def test_engine_starts_without_images_where_their_encoder_is_missing(tmp_path: Path) -> None:
    model = tmp_path / "model.gguf"
    model.touch()
    spec = replace(SPEC, weights=str(model), mmproj=str(tmp_path / "none.gguf"), runtime_dir=tmp_path / "run")
    assert "--mmproj" not in launch_plan(spec).argv
    (tmp_path / "none.gguf").touch()
    assert option(tuple(launch_plan(spec).argv), "--mmproj") == str(tmp_path / "none.gguf")


def test_processor_engine_sees_no_card() -> None:
    env = environment(replace(SPEC, device="cpu", cuda_device=1), "key", {"CUDA_VISIBLE_DEVICES": "0"})
    assert env["CUDA_VISIBLE_DEVICES"] == ""


def test_card_is_chosen_as_nvidia_smi_counts() -> None:
    env = environment(replace(SPEC, device="cuda", cuda_device=1), "key", {"HOME": "/home"})
    assert env["CUDA_VISIBLE_DEVICES"] == "1"
    assert env["CUDA_DEVICE_ORDER"] == "PCI_BUS_ID"
    assert env["HOME"] == "/home"


def test_without_a_card_index_visibility_is_inherited() -> None:
    assert environment(SPEC, "key", {"CUDA_VISIBLE_DEVICES": "2"})["CUDA_VISIBLE_DEVICES"] == "2"
    assert "CUDA_VISIBLE_DEVICES" not in environment(SPEC, "key", {})


def test_each_plan_has_its_own_key_and_socket_and_hides_the_key(tmp_path: Path) -> None:
    weights = tmp_path / "model.gguf"
    weights.touch()
    spec = replace(SPEC, weights=str(weights), runtime_dir=tmp_path / "run")
    one, other = launch_plan(spec), launch_plan(spec)
    assert one.endpoint.api_key != other.endpoint.api_key
    assert one.endpoint.uds_path != other.endpoint.uds_path
    assert one.env["GGUF_WORKER_API_KEY"] == one.endpoint.api_key
    assert not any(one.endpoint.api_key in word for word in one.argv)
    assert option(one.argv, "--uds") == one.endpoint.uds_path
    assert one.served_model == "demo"
    assert stat.S_IMODE(spec.runtime_dir.stat().st_mode) == 0o700


def test_path_too_long_for_a_socket_is_refused(tmp_path: Path) -> None:
    weights = tmp_path / "model.gguf"
    weights.touch()
    with pytest.raises(EngineFailure, match="too long for a socket") as caught:
        launch_plan(replace(SPEC, weights=str(weights), runtime_dir=tmp_path / ("x" * 100)))
    assert caught.value.reason is FailureReason.INVALID_SETTINGS


def test_runtime_directory_that_cannot_be_made_is_refused(tmp_path: Path) -> None:
    weights = tmp_path / "model.gguf"
    weights.touch()
    with pytest.raises(EngineFailure, match="no runtime directory"):
        launch_plan(replace(SPEC, weights=str(weights), runtime_dir=weights / "run"))


async def test_missing_file_fails_the_start_at_once(tmp_path: Path) -> None:
    spec = replace(SPEC, weights="/nowhere.gguf", runtime_dir=tmp_path)
    engine = llamacpp_engine(spec)
    with pytest.raises(EngineFailure, match=r"/nowhere\.gguf") as caught:
        await engine.start()
    assert caught.value.reason is FailureReason.WEIGHTS_MISSING
    assert engine.state is EngineState.FAILED
    assert (engine.name, engine.kind) == ("llama.cpp", "llamacpp")


def test_the_workers_own_word_goes_before_everything_else() -> None:
    told = "ENGINE_FAILURE " + json.dumps({"reason": "no_gpu", "detail": "no card was found"})
    failure = classify(3, ("cudaMalloc failed: out of memory", told, "error: bye"))
    assert (failure.reason, failure.detail, failure.exit_code) == (FailureReason.NO_GPU, "no card was found", 3)
    assert failure.log_tail[1] == told


@pytest.mark.parametrize(
    ("exit_code", "line", "reason", "detail"),
    [
        (1, "cudaMalloc failed: out of memory", "out_of_memory", "cudaMalloc failed: out of memory"),
        (1, "ggml: failed to allocate buffer", "out_of_memory", "ggml: failed to allocate buffer"),
        (-9, "loading", "crashed", "killed (SIGKILL), perhaps by the kernel for memory"),
        (-6, "x.c:1: GGML_ASSERT(a) failed", "crashed", "killed by SIGABRT: x.c:1: GGML_ASSERT(a) failed"),
        (-11, "all is well", "crashed", "killed by SIGSEGV"),
        (1, "CUDA error: misaligned", "crashed", "ended with exit code 1: CUDA error: misaligned"),
        (0, "", "crashed", "ended with exit code 0"),
        (3, "ENGINE_FAILURE {not json", "crashed", "ended with exit code 3"),
        (3, 'ENGINE_FAILURE {"reason": "new", "detail": "?"}', "crashed", "ended with exit code 3"),
        (3, "ENGINE_FAILURE []", "crashed", "ended with exit code 3"),
    ],
)
def test_silent_end_is_read_from_the_last_lines(exit_code: int, line: str, reason: str, detail: str) -> None:
    failure = classify(exit_code, ("first line", line))
    assert failure.reason == reason
    assert failure.detail == detail


async def test_worker_that_reports_a_failure_fails_with_its_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "elsewhere" / "backends" / "llamacpp"
    package.mkdir(parents=True)
    (package.parent / "__init__.py").touch()
    told = {"reason": "unsupported_model", "detail": "unknown architecture foo"}
    script = f"import sys; print('ENGINE_FAILURE', {json.dumps(json.dumps(told))}, file=sys.stderr); sys.exit(3)"
    (package / "__init__.py").touch()
    (package / "__main__.py").write_text(script)
    weights = tmp_path / "model.gguf"
    weights.touch()
    monkeypatch.chdir(package.parent.parent)
    engine = llamacpp_engine(replace(SPEC, weights=str(weights), runtime_dir=tmp_path))
    with pytest.raises(EngineFailure, match="unknown architecture foo") as caught:
        await engine.start()
    assert caught.value.reason is FailureReason.UNSUPPORTED_MODEL
    assert caught.value.exit_code == 3


def test_killed_worker_with_a_memory_line_ran_out_of_memory() -> None:
    assert classify(-signal.SIGKILL, ("CUDA out of memory",)).reason is FailureReason.OUT_OF_MEMORY
