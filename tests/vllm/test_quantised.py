"""Quantised weights: the GGUF and bitsandbytes plugins of vLLM, as the presets use them."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.e2e.client import CHAT, COMPLETIONS, chat, chunks, content_of
from tests.vllm.chains import ENVIRONMENT, VLLM, Chain, Keeper, service, vllm
from tests.vllm.models import THINKER, THINKER_GGUF

DAYS = "Monday, Tuesday, Wednesday, Thursday,"
CAPITAL = "What is the capital of France?"


def gguf(keeper: Keeper) -> Chain:
    """The plugin lacks kernels for a CPU and leaves a llama's q and k as llama.cpp keeps them: our shim helps out."""
    engine = vllm(
        "plugins",
        model=str(THINKER_GGUF),
        tokenizer=str(THINKER),
        quantization="gguf",
        trust_gguf_architecture=True,
    )
    return keeper.chain("gguf", service(engine), {**ENVIRONMENT, "VLLM_PLUGINS": "gguf,gguf_on_cpu"})


def bitsandbytes(keeper: Keeper) -> Chain:
    """The plugin as it is: bitsandbytes computes on a CPU too."""
    return keeper.chain("bitsandbytes", service(vllm("plugins", quantization="bitsandbytes")))


@pytest.mark.parametrize("start", [gguf, bitsandbytes])
def test_quantised_model_answers_sensibly(keeper: Keeper, start: Callable[[Keeper], Chain]) -> None:
    quantised = start(keeper)
    quantised.serves_with(VLLM)
    client = quantised.client
    told = client.post(COMPLETIONS, {"prompt": DAYS, "max_tokens": 12})
    assert told.headers["x-engine"] == VLLM
    assert told.json()["choices"][0]["text"].startswith(" Friday")
    whole = client.post(CHAT, chat(CAPITAL, max_tokens=30)).json()["choices"][0]["message"]["content"]
    found = chunks(client.streamed(CHAT, chat(CAPITAL, max_tokens=30, stream=True)))
    assert content_of(found) == whole
    thought = client.post(CHAT, chat(CAPITAL, max_tokens=12, enable_thinking=True)).json()
    assert thought["choices"][0]["message"]["reasoning_content"]
