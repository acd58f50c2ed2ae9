from __future__ import annotations

import json
from dataclasses import replace

import pytest

from backends.vllm.argv import argv, environment, on_port, on_socket
from backends.vllm.spec import VllmSpec

SPEC = VllmSpec(model="Qwen/Qwen3-14B-AWQ", names=("qwen3-14b", "qwen3"), max_model_len=14384, max_num_seqs=4)
HEAD = "py -m vllm.entrypoints.cli.main serve"


def line_of(spec: VllmSpec, model: str) -> str:
    return " ".join(argv(spec, python="py", model=model, listen=on_port(8101)))


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
    line = argv(spec, python="py", model="google/gemma-4-E4B-it", listen=on_port(8102))
    assert line[line.index("--quantization") + 1] == "bitsandbytes"
    assert json.loads(line[line.index("--limit-mm-per-prompt") + 1]) == {"image": 1, "audio": 0, "video": 0}
    assert line[-4:] == ("--enforce-eager", "--disable-uvicorn-access-log", "--seed", "1")


def test_awq_is_left_to_vllm_too() -> None:
    assert "--quantization" not in line_of(replace(SPEC, quantization="awq"), SPEC.model)


def test_model_for_embeddings_is_told_to_pool() -> None:
    assert " --runner pooling " in line_of(replace(SPEC, embeds=True), "Qwen/Qwen3-Embedding-0.6B")


def test_an_address_in_a_message_is_never_fetched() -> None:
    """An empty list would allow every host, so it names one that cannot be."""
    line = argv(replace(SPEC, images_per_prompt=1), python="py", model="m", listen=on_port(1))
    assert line[line.index("--allowed-media-domains") + 1].endswith(".invalid")
    assert line[line.index("--allowed-media-domains") + 2].startswith("--")


def test_cache_type_and_config_are_given_where_they_are_set() -> None:
    line = line_of(replace(SPEC, kv_cache_dtype="fp8", hf_config_path="Qwen/Qwen3-14B"), "m")
    assert " --kv-cache-dtype fp8 " in line
    assert " --hf-config-path Qwen/Qwen3-14B " in line
    assert "--kv-cache-dtype" not in line_of(SPEC, "m")


def test_it_listens_on_a_socket_and_on_no_port() -> None:
    line = argv(SPEC, python="py", model="m", listen=on_socket("/run/x.sock"))
    assert line[line.index("--uds") + 1] == "/run/x.sock"
    assert not {"--host", "--port"} & set(line)


def test_the_plugin_that_is_needed_is_the_only_one() -> None:
    assert environment(SPEC, "key", {}, plugins="gguf")["VLLM_PLUGINS"] == "gguf"
    assert environment(SPEC, "key", {})["VLLM_PLUGINS"] == ""


def test_plugins_that_somebody_chose_are_kept() -> None:
    assert environment(SPEC, "key", {"VLLM_PLUGINS": "gguf,mine"})["VLLM_PLUGINS"] == "gguf,mine"


def test_environment_holds_the_key_and_no_telemetry() -> None:
    env = environment(replace(SPEC, cuda_device=1), "secret", {"VLLM_API_KEY": "inherited", "HOME": "/home"})
    assert env["VLLM_API_KEY"] == "secret"
    assert (env["VLLM_NO_USAGE_STATS"], env["DO_NOT_TRACK"]) == ("1", "1")
    assert (env["CUDA_VISIBLE_DEVICES"], env["HOME"]) == ("1", "/home")


def test_paths_for_developers_stay_closed() -> None:
    assert environment(SPEC, "key", {"VLLM_SERVER_DEV_MODE": "1"})["VLLM_SERVER_DEV_MODE"] == "0"


def test_the_engine_is_bound_to_this_machine_inside_too() -> None:
    assert environment(SPEC, "key", {})["VLLM_HOST_IP"] == "127.0.0.1"


def test_cards_are_counted_as_nvidia_smi_counts_them() -> None:
    assert environment(replace(SPEC, cuda_device=0), "key", {})["CUDA_DEVICE_ORDER"] == "PCI_BUS_ID"
    assert environment(SPEC, "key", {"CUDA_VISIBLE_DEVICES": "3"})["CUDA_VISIBLE_DEVICES"] == "3"


def test_no_level_of_the_log_shows_requests() -> None:
    inherited = {"VLLM_LOGGING_LEVEL": "DEBUG", "VLLM_DEBUG_LOG_API_SERVER_RESPONSE": "true"}
    env = environment(SPEC, "key", inherited)
    assert (env["VLLM_LOGGING_LEVEL"], env["VLLM_DEBUG_LOG_API_SERVER_RESPONSE"]) == ("INFO", "false")
    assert "--enable-log-requests" not in line_of(SPEC, "m")


@pytest.mark.parametrize(("load_timeout_s", "limit"), [(900.0, "900"), (0.5, "1")])
def test_vllm_waits_for_its_engine_as_long_as_the_gateway_for_vllm(load_timeout_s: float, limit: str) -> None:
    env = environment(replace(SPEC, load_timeout_s=load_timeout_s), "key", {})
    assert env["VLLM_ENGINE_READY_TIMEOUT_S"] == limit
