"""What keeps a real vLLM from starting is told as a reason that a person can act on, and llama.cpp answers."""

from __future__ import annotations

import json
import socket
import sys
from collections.abc import Iterator

import pytest

from tests.e2e.client import CHAT, Client, Json, chat
from tests.vllm.chains import LLAMACPP, Chain, Keeper, service, vllm
from tests.vllm.models import STRANGER, THINKER, THINKER_GGUF, TRUNCATED

SHORT = json.dumps({"max_position_embeddings": 1024})
GGUF = {"model": str(THINKER_GGUF), "tokenizer": str(THINKER), "quantization": "gguf"}

# Each engine of one chain: it fails, and the next one is tried. What its `detail` has to name comes last.
FAILING: dict[str, tuple[Json, str, str]] = {
    "no vLLM": (vllm() | {"python": sys.executable}, "not_installed", "pip install"),
    "no interpreter": (vllm() | {"python": "/nowhere/python"}, "not_installed", "/nowhere/python"),
    "no card": (vllm("cuda"), "no_gpu", "device type"),
    "no weights": (vllm(model="/nowhere/model"), "weights_missing", "/nowhere/model"),
    "no such model": (vllm(model="nobody/no-such-model"), "weights_missing", ""),
    "no GGUF plugin": (vllm(**GGUF), "not_installed", "vllm-gguf-plugin"),
    "no bitsandbytes plugin": (vllm(quantization="bitsandbytes"), "not_installed", "vllm-bnb-plugin"),
    "llama as GGUF": (vllm("plugins", **GGUF), "unsupported_model", "llama"),
    "unknown architecture": (vllm(model=str(STRANGER)), "unsupported_model", "StrangerForCausalLM"),
    "context too long": (vllm(extra_args=["--hf-overrides", SHORT]), "invalid_settings", "max_model_len"),
    "unknown flag": (vllm(extra_args=["--no-such-flag"]), "invalid_settings", "--no-such-flag"),
    "unknown parser": (vllm(tool_call_parser="nonsense"), "invalid_settings", "nonsense"),
    "truncated weights": (vllm(model=str(TRUNCATED)), "weights_damaged", "file not fully covered"),
    "cache too small": (vllm(extra_args=["--num-gpu-blocks-override", "8"]), "out_of_memory", "KV cache"),
}


@pytest.fixture(scope="session")
def taken_port() -> Iterator[int]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield int(listener.getsockname()[1])


@pytest.fixture
def failed(keeper: Keeper, taken_port: int) -> Chain:
    """A chain whose engines have all failed but the last, beside a service that wants a port which is taken."""
    engines = [{**engine, "name": name} for name, (engine, _, _) in FAILING.items()]
    no_second_try = {"failback": False}
    services = {
        "thinker": service(*engines, failover=no_second_try),
        "port": service(vllm(name="port taken"), paths=["/port"], engine_port=taken_port, failover=no_second_try),
    }
    chain = Chain(program := keeper.program("failing", services), Client(program.url()))
    chain.serves_with(LLAMACPP)
    return chain


@pytest.mark.parametrize("name", FAILING)
def test_failed_start_has_its_reason(failed: Chain, name: str) -> None:
    _, reason, named = FAILING[name]
    engine = failed.engine(name)
    failure = engine["last_failure"]
    assert engine["state"] == "failed"
    assert (failure["reason"], engine["starts"]) == (reason, 1), failure
    assert named in failure["detail"]
    assert "EngineCore pid" not in failure["detail"]


def test_taken_port_is_noticed_before_the_start(failed: Chain, taken_port: int) -> None:
    service = Chain(failed.program, Client(failed.program.url("/port")))
    service.serves_with(LLAMACPP)
    failure = service.engine("port taken")["last_failure"]
    assert failure["reason"] == "invalid_settings"
    assert str(taken_port) in failure["detail"]


def test_llamacpp_answers_where_no_vllm_starts(failed: Chain) -> None:
    answer = failed.client.post(CHAT, chat("What is the capital of France?", max_tokens=30))
    assert answer.headers["x-engine"] == LLAMACPP
    assert "Paris" in answer.json()["choices"][0]["message"]["content"]
    health = failed.client.get("/health").json()
    assert (health["engine"], health["vllm_server"]) == (LLAMACPP, "unavailable")
    assert failed.status()["vllm_ready"] is False
