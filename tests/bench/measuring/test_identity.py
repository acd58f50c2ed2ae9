"""Who answers, as vLLM, llama-server, the worker and others say it."""

from __future__ import annotations

import hashlib
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace
from pathlib import Path

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from bench.measuring.gpus import Card
from bench.measuring.identity import Said, ask, file_record, identify
from bench.measuring.load import Target
from bench.records.record import ModelFile

Start = Callable[[Mapping[str, str]], Awaitable[Target]]


@pytest.fixture
def start(aiohttp_server: Callable[[web.Application], Awaitable[TestServer]]) -> Start:
    """A server that has these answers by path."""

    async def start_server(answers: Mapping[str, str]) -> Target:
        async def answer(request: web.Request) -> web.Response:
            if request.path not in answers:
                raise web.HTTPNotFound
            return web.Response(text=answers[request.path])

        app = web.Application()
        app.router.add_get("/{path:.*}", answer)
        return Target("it", str((await aiohttp_server(app)).make_url("/")), "second", key="secret")

    return start_server


@pytest.mark.parametrize(
    ("answers", "said"),
    [
        (
            {
                "/v1/models": '{"data": [{"id": "second", "owned_by": "vllm", "max_model_len": 4096}]}',
                "/version": '{"version": "0.32.1"}',
            },
            Said("vllm", "0.32.1", 4096),
        ),
        (
            {
                "/v1/models": '{"data": [{"id": "x", "owned_by": "llamacpp"}]}',
                "/props": '{"build_info": "b1-abc", "default_generation_settings": {"n_ctx": 512}}',
            },
            Said("llama-server", "b1-abc", 512),
        ),
        (
            {"/v1/models": '{"data": [{"id": "first", "owned_by": "me"}, {"id": "second", "owned_by": "llama.cpp"}]}'},
            Said("llama.cpp"),
        ),
        ({"/v1/models": '{"data": [{"id": "first", "owned_by": "me"}]}'}, Said("llama_cpp.server")),
        ({"/metrics": "# HELP\nvllm:num_requests_running 1\n"}, Said("vllm")),
        ({}, Said()),
        (
            {
                "/v1/models": '{"data": [7, {"id": [], "owned_by": 3, "max_model_len": "long"}]}',
                "/version": "[1]",
                "/props": '{"default_generation_settings": 5, "build_info": {}}',
            },
            Said(),
        ),
        ({"/v1/models": '{"data": "none"}', "/version": "{"}, Said()),
        ({"/version": '{"version": "' + "9" * 1000 + '"}'}, Said("", "9" * 200)),
    ],
)
async def test_an_engine_is_known_by_what_it_says(start: Start, answers: Mapping[str, str], said: Said) -> None:
    assert await ask(await start(answers)) == said


async def test_a_server_that_is_not_there_says_nothing() -> None:
    assert await ask(Target("gone", "unix:nowhere.sock", "tiny")) == Said()


async def test_a_target_is_recorded_with_its_files_and_card_and_what_the_caller_knows(
    start: Start, tmp_path: Path
) -> None:
    file = tmp_path / "model.gguf"
    file.write_bytes(b"weights")
    target = await start({"/version": '{"version": "1"}', "/v1/models": '{"data": [{"owned_by": "vllm"}]}'})
    record = await identify(
        target, engine="mine", files=[file], argv=["serve", "it"], card=Card(0, "RTX 3060", 12 << 30, "580.1", "13.1")
    )
    assert (record.name, record.engine, record.engine_version, record.model) == ("it", "mine", "1", "second")
    assert record.files == (ModelFile("model.gguf", 7, hashlib.sha256(b"weights").hexdigest()),)
    assert (record.card, record.card_memory_bytes, record.driver) == ("RTX 3060", 12 << 30, "580.1")
    assert record.argv == ("serve", "it")


async def test_what_nobody_knows_is_unknown(start: Start) -> None:
    record = await identify(await start({}))
    assert (record.engine, record.engine_version, record.card, record.files) == ("unknown", None, None, ())


async def test_of_a_model_that_is_called_by_its_path_the_directory_is_not_told(start: Start) -> None:
    target = await start({})
    assert (await identify(replace(target, model="/srv/secret/model.gguf"))).model == "model.gguf"
    assert (await identify(replace(target, model="org/model"))).model == "org/model"


def test_a_file_that_was_altered_has_another_hash(tmp_path: Path) -> None:
    file = tmp_path / "model.gguf"
    file.write_bytes(b"weights")
    before = file_record(file)
    file.write_bytes(b"weights of another")
    assert file_record(file).sha256 == hashlib.sha256(b"weights of another").hexdigest() != before.sha256
