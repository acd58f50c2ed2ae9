"""The plan of one start of vLLM, and all that is said before one."""

from __future__ import annotations

import os
import socket
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from backends.base import Dialect, EngineFailure, EngineState, FailureReason
from backends.vllm.engine import launch_plan, vllm_engine
from backends.vllm.memory import GIB, CardMemory
from backends.vllm.spec import VllmSpec
from tests.backends.vllm_installation import ALL, PLAIN, environment_at, install
from tests.weights.gguf_bytes import of_architecture

SPEC = VllmSpec(model="Qwen/Qwen3-14B-AWQ", names=("qwen3-14b", "qwen3"), max_model_len=14384, max_num_seqs=4)
NEARLY_FULL = CardMemory(free_bytes=12 * GIB, total_bytes=12 * GIB)


@pytest.fixture
def spec(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> VllmSpec:
    """For an interpreter with vLLM and all plugins, which no test starts; the hub's cache is empty."""
    monkeypatch.setattr("weights.hub_cache.cache_dir", lambda: tmp_path / "hub")
    python, site = environment_at(tmp_path / "v")
    install(site, ALL)
    return replace(SPEC, python=python)


@pytest.fixture
def gguf(tmp_path: Path) -> Path:
    path = tmp_path / "m.gguf"
    path.write_bytes(of_architecture("qwen3"))
    return path


def refusal(spec: VllmSpec) -> EngineFailure:
    with pytest.raises(EngineFailure) as caught:
        launch_plan(spec)
    return caught.value


async def test_missing_interpreter_fails_the_start_at_once() -> None:
    engine = vllm_engine(replace(SPEC, python=Path("/nowhere/python")))
    with pytest.raises(EngineFailure, match="no interpreter /nowhere/python") as caught:
        await engine.start()
    assert caught.value.reason is FailureReason.NOT_INSTALLED
    assert engine.state is EngineState.FAILED
    assert (engine.name, engine.kind) == ("vllm", "vllm")


def test_the_gateways_own_interpreter_is_the_default() -> None:
    assert refusal(SPEC).detail.startswith(f"{sys.executable} has no vLLM")


def test_plan_takes_a_free_port_and_hides_the_key(spec: VllmSpec) -> None:
    plan = launch_plan(spec)
    port = plan.argv[plan.argv.index("--port") + 1]
    assert plan.endpoint.base_url == f"http://127.0.0.1:{port}"
    assert plan.endpoint.uds_path is None
    assert plan.env["VLLM_API_KEY"] == plan.endpoint.api_key
    assert not any(plan.endpoint.api_key in word for word in plan.argv)
    assert plan.served_model == "qwen3-14b"
    assert plan.argv[4] == "Qwen/Qwen3-14B-AWQ"
    assert plan.env["PATH"] == os.environ["PATH"]


def test_without_a_port_of_its_own_it_listens_where_nobody_else_may(spec: VllmSpec, tmp_path: Path) -> None:
    plan = launch_plan(replace(spec, runtime_dir=tmp_path / "run"))
    assert plan.endpoint.uds_path == plan.argv[plan.argv.index("--uds") + 1]
    assert "--port" not in plan.argv
    assert (tmp_path / "run").stat().st_mode & 0o777 == 0o700


def test_a_port_that_is_set_goes_before_the_socket(spec: VllmSpec, tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    endpoint = launch_plan(replace(spec, runtime_dir=tmp_path, port=port)).endpoint
    assert (endpoint.base_url, endpoint.uds_path) == (f"http://127.0.0.1:{port}", None)


def test_each_start_has_a_key_of_its_own(spec: VllmSpec) -> None:
    assert launch_plan(spec).endpoint.api_key != launch_plan(spec).endpoint.api_key


def test_the_endpoint_tells_its_dialect_and_its_signs_of_life(spec: VllmSpec) -> None:
    endpoint = launch_plan(spec).endpoint
    assert endpoint.dialect is Dialect.VLLM
    assert endpoint.steps_metrics == ("vllm:kv_cache_usage_perc", "vllm:iteration_tokens_total_count")


def test_taken_port_is_told_before_vllm_is_started(spec: VllmSpec) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        failure = refusal(replace(spec, port=port))
    assert failure.reason is FailureReason.INVALID_SETTINGS
    assert f"port {port} is taken" in failure.detail


def test_model_file_is_resolved_and_a_missing_one_told(spec: VllmSpec, tmp_path: Path, gguf: Path) -> None:
    spec = replace(spec, tokenizer="Qwen/Qwen3-14B")
    assert launch_plan(replace(spec, model=str(gguf))).argv[4] == str(gguf)
    assert launch_plan(replace(spec, model=str(tmp_path))).argv[4] == str(tmp_path)
    failure = refusal(replace(spec, model=str(tmp_path / "other.gguf")))
    assert failure.reason is FailureReason.WEIGHTS_MISSING
    assert "there is no file" in failure.detail


def test_a_file_of_the_hub_is_looked_for_in_its_cache(
    spec: VllmSpec, gguf: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("backends.vllm.model_files.resolve", {"hf:o/n/m.gguf@main": gguf}.__getitem__)
    plan = launch_plan(replace(spec, model="hf:o/n/m.gguf@main", tokenizer="o/n"))
    assert plan.argv[4] == str(gguf)
    assert plan.env["VLLM_PLUGINS"] == "gguf"


@pytest.mark.parametrize("model", ["Qwen/Qwen3-0.6B-GGUF:Q8_0", "Qwen/Qwen3-14B"])
def test_hub_ids_are_vllms_business(spec: VllmSpec, model: str) -> None:
    assert launch_plan(replace(spec, model=model, quantization="gguf")).argv[4] == model


def test_a_folder_may_be_followed_by_a_quantization(spec: VllmSpec, tmp_path: Path) -> None:
    model = f"{tmp_path}:Q8_0"
    assert launch_plan(replace(spec, model=model, quantization="gguf")).argv[4] == model


def test_a_file_that_is_a_gguf_needs_the_plugin_whatever_the_settings_leave_out(tmp_path: Path, gguf: Path) -> None:
    python, site = environment_at(tmp_path / "plain")
    install(site, PLAIN)
    python.write_text("#!/nowhere\n")
    failure = refusal(replace(SPEC, python=python, model=str(gguf)))
    assert failure.reason is FailureReason.NOT_INSTALLED


def test_a_gguf_without_a_tokenizer_is_told_at_once(spec: VllmSpec, gguf: Path) -> None:
    failure = refusal(replace(spec, model=str(gguf)))
    assert failure.reason is FailureReason.INVALID_SETTINGS
    assert "`tokenizer` must name the base model" in failure.detail
    gguf.with_name("config.json").write_text("{}")
    launch_plan(replace(spec, model=str(gguf)))


def test_a_gguf_that_comes_out_wrong_is_refused_unless_the_plugin_is_trusted(spec: VllmSpec, gguf: Path) -> None:
    gguf.write_bytes(of_architecture("llama"))
    spec = replace(spec, model=str(gguf), tokenizer="o/n")
    failure = refusal(spec)
    assert failure.reason is FailureReason.UNSUPPORTED_MODEL
    assert "llama.cpp engine" in failure.detail
    assert launch_plan(replace(spec, trust_gguf_architecture=True)).argv[4] == str(gguf)


def test_a_damaged_gguf_is_told_at_once(spec: VllmSpec, gguf: Path) -> None:
    gguf.write_bytes(b"GGUF\x03")
    failure = refusal(replace(spec, model=str(gguf), tokenizer="o/n"))
    assert (failure.reason, failure.detail) == (FailureReason.WEIGHTS_DAMAGED, "m.gguf: not a GGUF file: too short")


def test_a_version_nobody_tried_is_warned_of(tmp_path: Path, spec: VllmSpec) -> None:
    python, site = environment_at(tmp_path / "new")
    install(site, {"vllm": "0.40.0"})
    with capture_logs() as logs:
        launch_plan(replace(spec, python=python))
        launch_plan(spec)
    assert [(entry["event"], entry["version"]) for entry in logs] == [("vllm_version_not_tested", "0.40.0")]


def test_a_card_that_the_weights_nearly_fill_is_warned_of_with_the_smaller_preset(spec: VllmSpec) -> None:
    spec = replace(spec, gpu_memory_utilization=0.97, weights_gib=8.7, smaller_preset="gemma4-qat")
    with capture_logs() as logs:
        launch_plan(spec, read_card=lambda _: NEARLY_FULL)
    assert [(entry["event"], entry["left_gib"], entry["smaller_preset"]) for entry in logs] == [
        ("vllm_memory_is_tight", 2.9, "gemma4-qat")
    ]


def test_a_card_with_room_and_one_that_is_not_known_are_not_warned_of(spec: VllmSpec) -> None:
    roomy = CardMemory(free_bytes=24 * GIB, total_bytes=24 * GIB)
    with capture_logs() as logs:
        launch_plan(replace(spec, weights_gib=8.7), read_card=lambda _: roomy)
        launch_plan(replace(spec, weights_gib=8.7), read_card=lambda _: None)
        launch_plan(spec, read_card=lambda _: NEARLY_FULL)
    assert logs == []


def test_a_card_in_use_is_told_before_the_load(spec: VllmSpec) -> None:
    asked: list[int | None] = []

    def read(index: int | None) -> CardMemory:
        asked.append(index)
        return CardMemory(free_bytes=GIB, total_bytes=12 * GIB)

    with pytest.raises(EngineFailure, match=r"1\.0 of 12\.0 GiB are free") as caught:
        launch_plan(replace(spec, cuda_device=1), read_card=read)
    assert caught.value.reason is FailureReason.OUT_OF_MEMORY
    assert asked == [1]


def test_the_plan_tells_phases_and_failures(spec: VllmSpec) -> None:
    plan = launch_plan(spec)
    assert plan.phase is not None
    assert plan.phase(("Loading weights took 3 s",)).startswith("the weights were loaded")
    assert plan.classify(0, ()).reason is FailureReason.CRASHED
