from __future__ import annotations

import json
import os
import socket
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from backends.base import EngineFailure, EngineState, FailureReason
from backends.vllm_server import VllmSpec, argv, check_installed, classify, environment, launch_plan, vllm_engine

SPEC = VllmSpec(model="Qwen/Qwen3-14B-AWQ", names=("qwen3-14b", "qwen3"), max_model_len=14384, max_num_seqs=4)
HEAD = "py -m vllm.entrypoints.cli.main serve"


def line_of(spec: VllmSpec, model: str) -> str:
    return " ".join(argv(spec, python="py", model=model, port=8101))


def test_command_line_for_a_gguf_leaves_the_quantization_to_vllm() -> None:
    spec = replace(
        SPEC,
        quantization="gguf",
        tokenizer="Qwen/Qwen3-14B",
        dtype="float16",
        reasoning_parser="qwen3",
        tool_call_parser="hermes",
    )
    assert line_of(spec, "/m/Qwen3-14B-Q4_K_M.gguf") == (
        f"{HEAD} /m/Qwen3-14B-Q4_K_M.gguf --served-model-name qwen3-14b qwen3 --host 127.0.0.1 --port 8101"
        " --max-model-len 14384 --max-num-seqs 4 --gpu-memory-utilization 0.92 --dtype float16"
        " --tokenizer Qwen/Qwen3-14B --reasoning-parser qwen3 --enable-auto-tool-choice --tool-call-parser hermes"
        " --disable-uvicorn-access-log"
    )


def test_command_line_for_bitsandbytes_with_images() -> None:
    spec = replace(
        SPEC, quantization="bitsandbytes", images_per_prompt=1, enforce_eager=True, extra_args=("--seed", "1")
    )
    line = argv(spec, python="py", model="google/gemma-4-E4B-it", port=8102)
    assert line[line.index("--quantization") + 1] == "bitsandbytes"
    assert json.loads(line[line.index("--limit-mm-per-prompt") + 1]) == {"image": 1, "audio": 0, "video": 0}
    assert line[-4:] == ("--enforce-eager", "--disable-uvicorn-access-log", "--seed", "1")


def test_awq_is_left_to_vllm_too() -> None:
    assert "--quantization" not in line_of(replace(SPEC, quantization="awq"), SPEC.model)


@pytest.mark.parametrize(
    ("quantization", "plugins"), [("gguf", "gguf"), ("bitsandbytes", "bitsandbytes"), ("awq", ""), (None, "")]
)
def test_only_the_plugin_that_is_needed_is_loaded(quantization: None, plugins: str) -> None:
    assert environment(replace(SPEC, quantization=quantization), "key", {})["VLLM_PLUGINS"] == plugins


def test_plugins_that_somebody_chose_are_kept() -> None:
    assert environment(SPEC, "key", {"VLLM_PLUGINS": "gguf,mine"})["VLLM_PLUGINS"] == "gguf,mine"


def test_environment_holds_the_key_and_no_telemetry() -> None:
    env = environment(replace(SPEC, cuda_device=1), "secret", {"VLLM_API_KEY": "inherited", "HOME": "/home"})
    assert env["VLLM_API_KEY"] == "secret"
    assert (env["VLLM_NO_USAGE_STATS"], env["DO_NOT_TRACK"]) == ("1", "1")
    assert (env["CUDA_VISIBLE_DEVICES"], env["HOME"]) == ("1", "/home")


@pytest.fixture
def other_python(tmp_path: Path) -> str:
    """Another name of this interpreter, so that it has to be asked."""
    path = tmp_path / "python"
    path.symlink_to(sys.executable)
    return str(path)


@pytest.fixture
def fake_vllm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A vLLM that must not be imported, for this interpreter and those it starts."""
    package = tmp_path / "site" / "vllm"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("raise RuntimeError('imported')")
    monkeypatch.syspath_prepend(package.parent)
    monkeypatch.setenv("PYTHONPATH", str(package.parent))


@pytest.mark.usefixtures("fake_vllm")
def test_vllm_is_found_without_being_imported(other_python: str) -> None:
    check_installed(sys.executable)
    check_installed(other_python)


@pytest.mark.parametrize(
    ("quantization", "packages"),
    [("gguf", "vllm-gguf-plugin"), ("bitsandbytes", "vllm-bnb-plugin bitsandbytes"), (None, "'vllm>=0.32'")],
)
def test_missing_vllm_comes_with_the_command_that_mends_it(
    other_python: str, quantization: None, packages: str
) -> None:
    with pytest.raises(EngineFailure, match=rf"{other_python} -m pip install .*{packages}$") as caught:
        check_installed(other_python, quantization)
    assert caught.value.reason is FailureReason.NOT_INSTALLED


def test_folder_named_vllm_is_not_vllm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, other_python: str) -> None:
    (tmp_path / "site" / "vllm").mkdir(parents=True)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "site"))
    with pytest.raises(EngineFailure, match="has no vLLM"):
        check_installed(other_python)


async def test_missing_interpreter_fails_the_start_at_once() -> None:
    engine = vllm_engine(replace(SPEC, python=Path("/nowhere/python")))
    with pytest.raises(EngineFailure, match="no interpreter /nowhere/python") as caught:
        await engine.start()
    assert caught.value.reason is FailureReason.NOT_INSTALLED
    assert engine.state is EngineState.FAILED
    assert (engine.name, engine.kind) == ("vllm", "vllm")


def test_interpreter_that_hangs_counts_as_not_installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("backends.vllm_server._ASK_LIMIT_S", 0.1)
    python = tmp_path / "python"
    python.write_text("#!/bin/sh\nexec sleep 1000\n")
    python.chmod(0o755)
    with pytest.raises(EngineFailure, match="does not answer"):
        check_installed(str(python))


@pytest.mark.usefixtures("fake_vllm")
def test_plan_takes_a_free_port_and_hides_the_key() -> None:
    plan = launch_plan(SPEC)
    port = plan.argv[plan.argv.index("--port") + 1]
    assert plan.endpoint.base_url == f"http://127.0.0.1:{port}"
    assert plan.endpoint.uds_path is None
    assert plan.env["VLLM_API_KEY"] == plan.endpoint.api_key
    assert not any(plan.endpoint.api_key in word for word in plan.argv)
    assert plan.served_model == "qwen3-14b"
    assert plan.argv[4] == "Qwen/Qwen3-14B-AWQ"
    assert plan.env["PATH"] == os.environ["PATH"]


@pytest.mark.usefixtures("fake_vllm")
def test_taken_port_is_told_before_vllm_is_started() -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        with pytest.raises(EngineFailure, match=f"port {port} is taken") as caught:
            launch_plan(replace(SPEC, port=port))
    assert caught.value.reason is FailureReason.INVALID_SETTINGS


@pytest.mark.usefixtures("fake_vllm")
def test_model_file_is_resolved_and_a_missing_one_told(tmp_path: Path) -> None:
    file = tmp_path / "m.gguf"
    file.touch()
    assert launch_plan(replace(SPEC, model=str(file))).argv[4] == str(file)
    assert launch_plan(replace(SPEC, model=str(tmp_path))).argv[4] == str(tmp_path)
    with pytest.raises(EngineFailure, match="there is no file") as caught:
        launch_plan(replace(SPEC, model=str(tmp_path / "other.gguf")))
    assert caught.value.reason is FailureReason.WEIGHTS_MISSING


@pytest.mark.parametrize(
    ("exit_code", "line", "reason"),
    [
        (1, "RuntimeError: Failed to infer device type, please set the environment", "no_gpu"),
        (1, "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2 GiB", "out_of_memory"),
        (1, "ValueError: Free memory on device (1/15 GiB) on startup is less than desired GPU", "out_of_memory"),
        (1, "ValueError: No available memory for the cache blocks. Try increasing", "out_of_memory"),
        (1, "(2.81 GiB KV cache is needed, which is larger than the available KV cache memory", "out_of_memory"),
        (1, "Unknown quantization method: bitsandbytes. Must be one of [...]", "not_installed"),
        (1, "OSError: It looks like the config file at 'm.gguf' is not a valid JSON file.", "not_installed"),
        (1, "Model architectures ['FooBarForCausalLM'] are not supported for now.", "unsupported_model"),
        (1, "model type 'foobar9' but Transformers does not recognize this architecture", "unsupported_model"),
        (1, "HFValidationError: Repo id must be in the form", "weights_missing"),
        (1, "LocalEntryNotFoundError: Cannot find an appropriate cached snapshot folder", "weights_missing"),
        (1, "SafetensorError: ... incomplete metadata, file not fully covered", "weights_damaged"),
        (1, "User-specified max_model_len (100000) is greater than the derived max_model_len", "invalid_settings"),
        (1, "KeyError: invalid tool call parser: nope", "invalid_settings"),
        (1, "OSError: [Errno 98] Address already in use", "invalid_settings"),
        (2, "vllm: error: unrecognized arguments: --nope", "invalid_settings"),
    ],
)
def test_known_line_gives_the_reason_and_is_the_detail(exit_code: int, line: str, reason: str) -> None:
    last = "RuntimeError: Engine core initialization failed. See root cause above."
    failure = classify(exit_code, ("INFO starting", line, last))
    assert failure.reason == reason
    assert failure.detail == line
    assert failure.exit_code == exit_code


def test_unknown_failure_tells_the_line_before_the_engine_core_gave_up() -> None:
    log = (
        "WARNING ulimit: OSError: [Errno 24] Too many open files",
        "(EngineCore pid=1) ERROR ValueError: the true cause",
        "RuntimeError: Engine core initialization failed. See root cause above.",
    )
    failure = classify(1, log)
    assert failure.reason is FailureReason.CRASHED
    assert failure.detail == "ended with exit code 1: (EngineCore pid=1) ERROR ValueError: the true cause"


def test_exit_code_0_is_a_crash() -> None:
    failure = classify(0, ("INFO bye",))
    assert (failure.reason, failure.detail) == (FailureReason.CRASHED, "ended with exit code 0")
