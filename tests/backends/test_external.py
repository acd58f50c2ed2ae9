"""Servers that somebody else runs, on real sockets of this process."""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from pytest_aiohttp.plugin import AiohttpServer

from backends.base import Dialect, Engine, EngineFailure, EngineState, FailureReason
from backends.external import ExternalEngine, ExternalSpec, base_url_of, read_key
from backends.process import IllegalTransition

KEY = "sk-very-secret"
TOKEN = {"choices": [{"text": "!"}], "usage": {}}
MODELS = {"object": "list", "data": [{"id": "small"}, {"id": "large"}]}

Make = Callable[..., ExternalEngine]


class Remote:
    """A server that answers `answers[path]`, a status or a JSON object, and 404 to everything else."""

    def __init__(self) -> None:
        self.answers: dict[str, Any] = {"/v1/models": MODELS, "/v1/chat/completions": TOKEN}
        self.key: str | None = None
        self.asked: list[tuple[str, dict[str, Any]]] = []
        self.headers: list[dict[str, str]] = []
        self.polled = asyncio.Condition()
        self.url = ""

    async def answer(self, request: web.Request) -> web.StreamResponse:
        self.headers.append(dict(request.headers))
        body = await request.json() if request.can_read_body else {}
        self.asked.append((request.path, body))
        async with self.polled:
            self.polled.notify_all()
        if self.key is not None and request.headers.get("Authorization") != f"Bearer {self.key}":
            return web.json_response({"error": f"{request.headers.get('Authorization')} is wrong"}, status=401)
        answer = self.answers.get(request.path, 404)
        if callable(answer):
            answer = answer(body)
        if isinstance(answer, web.StreamResponse):
            return answer
        return web.Response(status=answer) if isinstance(answer, int) else web.json_response(answer)

    async def asked_again(self, path: str, times: int) -> None:
        """Return once `path` was asked for so many more times."""
        n_wanted = self._n_asked(path) + times
        async with self.polled:
            await self.polled.wait_for(lambda: self._n_asked(path) >= n_wanted)

    def _n_asked(self, path: str) -> int:
        return sum(asked == path for asked, _ in self.asked)


@pytest.fixture
async def remote(aiohttp_server: AiohttpServer) -> Remote:
    remote = Remote()
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", remote.answer)
    server = await aiohttp_server(app)
    remote.url = f"http://127.0.0.1:{server.port}"
    return remote


@pytest.fixture
async def make(remote: Remote) -> AsyncIterator[Make]:
    """Engines at `remote` unless told otherwise, stopped at the end."""
    async with AsyncExitStack() as stack:

        def build(**spec: Any) -> ExternalEngine:
            poll_s = spec.pop("poll_s", 60.0)
            engine = ExternalEngine(ExternalSpec(**{"url": remote.url, **spec}), poll_s=poll_s)
            stack.push_async_callback(engine.stop)
            return engine

        yield build


def state_of(engine: Engine) -> EngineState:
    """Hides from the type checker that the state was looked at before: it changes."""
    return engine.state


async def refused(engine: ExternalEngine) -> EngineFailure:
    with pytest.raises(EngineFailure) as caught:
        await engine.start()
    assert state_of(engine) is EngineState.FAILED
    assert engine.failure is caught.value
    assert await engine.wait_failed() is caught.value
    return caught.value


def llama_server(body: dict[str, Any]) -> Any:
    if body.get("continue_final_message") and body.get("add_generation_prompt"):
        return 400
    return {"prompt": "<s>Hi"}


async def test_server_that_answers_is_ready_and_knows_its_model(remote: Remote, make: Make) -> None:
    engine: Engine = make()
    assert state_of(engine) is EngineState.STOPPED
    await engine.start()
    assert state_of(engine) is EngineState.READY
    endpoint = engine.endpoint
    assert (endpoint.base_url, endpoint.model, endpoint.api_key) == (remote.url, "small", "")
    assert (engine.kind, engine.name, engine.device, engine.cuda_device) == ("openai", "openai", "remote", None)
    assert all("Authorization" not in headers for headers in remote.headers)
    await engine.stop()
    await engine.stop()
    assert state_of(engine) is EngineState.STOPPED
    assert engine.failure is None


async def test_model_that_is_named_is_asked_for_one_token(remote: Remote, make: Make) -> None:
    remote.answers["/v1/models"] = 404
    engine = make(model="large", dialect=Dialect.OPENAI)
    await engine.start()
    path, body = remote.asked[-1]
    assert path == "/v1/chat/completions"
    assert (body["model"], body["max_tokens"]) == ("large", 1)
    assert engine.endpoint.model == "large"


@pytest.mark.parametrize(
    ("url", "base_url"),
    [
        ("http://host:1", "http://host:1"),
        ("http://host:1/v1/", "http://host:1"),
        ("https://host/api/v1", "https://host/api"),
        ("https://host/api/", "https://host/api"),
    ],
)
def test_address_may_end_in_v1_or_not(url: str, base_url: str) -> None:
    assert base_url_of(url) == base_url


@pytest.mark.parametrize(
    ("answers", "dialect", "first_path"),
    [
        ({"/tokenize": {"count": 9, "tokens": []}}, Dialect.VLLM, "/v1/completions"),
        ({"/tokenize": {"tokens": []}, "/apply-template": llama_server}, Dialect.LLAMA_SERVER, "/v1/completions"),
        ({"/tokenize": {"tokens": []}, "/apply-template": {"prompt": "<s>"}}, Dialect.OPENAI, "/v1/chat/completions"),
        ({"/tokenize": 405, "/apply-template": 500}, Dialect.OPENAI, "/v1/chat/completions"),
    ],
    ids=["vllm", "llama-server", "llama-server that repeats what it continues", "others"],
)
async def test_dialect_is_found_out_by_asking(
    remote: Remote, make: Make, answers: dict[str, Any], dialect: Dialect, first_path: str
) -> None:
    remote.answers |= {"/v1/completions": TOKEN, **answers}
    engine = make()
    await engine.start()
    assert engine.endpoint.dialect is dialect
    assert engine.endpoint.continues_reasoning is (dialect is Dialect.LLAMA_SERVER)
    assert remote.asked[-1][0] == first_path


async def test_dialect_that_is_given_is_believed(remote: Remote, make: Make) -> None:
    remote.answers["/v1/completions"] = TOKEN
    engine = make(dialect=Dialect.VLLM)
    await engine.start()
    assert engine.endpoint.dialect is Dialect.VLLM
    assert "/tokenize" not in [path for path, _ in remote.asked]


async def test_key_is_sent_with_every_request_and_told_to_nobody(
    remote: Remote,
    make: Make,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.DEBUG)
    remote.key = KEY
    monkeypatch.setenv("REMOTE_KEY", KEY + "\n")
    engine = make(api_key_env="REMOTE_KEY")
    await engine.start()
    assert engine.endpoint.api_key == KEY
    await engine.stop()
    remote.key = "another"
    failure = await refused(engine)
    assert failure.reason is FailureReason.UNHEALTHY
    assert failure.detail.endswith("refuses the key")
    assert KEY not in caplog.text + str(failure)


async def test_refusal_that_repeats_the_key_is_told_without_it(
    remote: Remote, make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REMOTE_KEY", KEY)
    remote.answers["/v1/chat/completions"] = lambda _: web.json_response({"error": f"{KEY} has no credit"}, status=402)
    failure = await refused(make(api_key_env="REMOTE_KEY"))
    assert "402" in failure.detail
    assert "has no credit" in failure.detail
    assert KEY not in failure.detail


async def test_server_that_wants_a_key_says_where_to_put_it(remote: Remote, make: Make) -> None:
    remote.key = KEY
    assert "api_key_env" in (await refused(make())).detail
    assert "api_key_env" in (await refused(make(model="small", dialect=Dialect.OPENAI))).detail


def test_key_comes_from_a_file(tmp_path: Path) -> None:
    path = tmp_path / "key"
    path.write_text(f"{KEY}\n")
    assert read_key(ExternalSpec(url="http://h", api_key_file=path), {}) == KEY
    assert read_key(ExternalSpec(url="http://h"), {}) == ""


@pytest.mark.parametrize("content", [b"", b"two keys", b"a\nb", b"\xff\xfe", "clé".encode(), None])
def test_file_without_one_key_is_refused_and_not_repeated(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "key"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(EngineFailure) as caught:
        read_key(ExternalSpec(url="http://h", api_key_file=path), {})
    assert caught.value.reason is FailureReason.INVALID_SETTINGS
    assert "two keys" not in caught.value.detail


async def test_variable_that_is_not_set_fails_the_start(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("REMOTE_KEY", raising=False)
    failure = await refused(make(api_key_env="REMOTE_KEY"))
    assert (failure.reason, "REMOTE_KEY" in failure.detail) == (FailureReason.INVALID_SETTINGS, True)


@pytest.mark.parametrize(
    ("path", "answer", "told"),
    [
        ("/v1/models", 404, "has no OpenAI API at this address"),
        ("/v1/models", 500, "GET /v1/models is answered 500"),
        ("/v1/models", {"data": []}, "has no models"),
        ("/v1/models", {"data": [{"id": None}]}, "has no models"),
        ("/v1/models", {"models": []}, "has no models"),
        ("/v1/chat/completions", 404, "does not know the model 'small'"),
        ("/v1/chat/completions", 500, "the first request was answered 500"),
        ("/v1/chat/completions", 403, "wants a key"),
        ("/health", 301, "redirects /health"),
        ("/v1/models", 308, "redirects /v1/models"),
    ],
)
async def test_what_is_wrong_is_told_in_a_sentence(
    remote: Remote, make: Make, path: str, answer: Any, told: str
) -> None:
    remote.answers[path] = answer
    failure = await refused(make())
    assert failure.reason is FailureReason.UNHEALTHY
    assert told in failure.detail


async def test_redirect_is_not_followed_with_the_key(
    remote: Remote, make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REMOTE_KEY", KEY)
    remote.answers["/v1/chat/completions"] = lambda _: web.Response(status=307, headers={"Location": "/elsewhere"})
    failure = await refused(make(api_key_env="REMOTE_KEY"))
    assert "answered 307" in failure.detail
    assert "/elsewhere" not in [path for path, _ in remote.asked]


async def test_proxy_of_the_environment_is_not_asked(
    make: Make, unused_tcp_port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{unused_tcp_port}")
    engine = make()
    await engine.start()
    assert state_of(engine) is EngineState.READY


async def test_port_where_nobody_listens_fails_at_once(make: Make, unused_tcp_port: int) -> None:
    failure = await refused(make(url=f"http://127.0.0.1:{unused_tcp_port}"))
    assert failure.detail == f"127.0.0.1:{unused_tcp_port} refuses connections: nothing listens there"


async def test_name_that_nobody_has_is_told(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(*_: Any, **__: Any) -> Any:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    failure = await refused(make(url="https://gpu.example"))
    assert failure.detail == "the name of gpu.example cannot be resolved"


async def test_https_at_a_server_of_plain_http_is_told(remote: Remote, make: Make) -> None:
    failure = await refused(make(url=remote.url.replace("http:", "https:")))
    assert "no TLS" in failure.detail


async def test_server_that_does_not_answer_is_told(remote: Remote, make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("backends.external_probe._ASK_LIMIT_S", 0.05)
    remote.answers["/health"] = 100  # never the end of an answer
    failure = await refused(make())
    assert "does not answer within 0.05 s" in failure.detail


async def test_loading_server_is_waited_for(remote: Remote, make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("backends.external_probe._PAUSE_S", 0.0)
    loading = iter([503, 503, {"status": "ok"}])
    remote.answers["/health"] = lambda _: next(loading, 200)
    engine = make()
    await engine.start()
    assert [path for path, _ in remote.asked][:4] == ["/health", "/health", "/health", "/v1/models"]


async def test_server_that_loads_for_ever_is_given_up(remote: Remote, make: Make) -> None:
    remote.answers["/health"] = 503
    failure = await refused(make(start_timeout_s=0.05))
    assert (failure.reason, failure.detail) == (FailureReason.START_TIMEOUT, "not ready after 0.05 s")


@pytest.mark.parametrize("health", [200, 404])
async def test_server_that_is_gone_fails_its_engine(remote: Remote, make: Make, health: int) -> None:
    """Its signs of life come from /v1/models where it has no /health."""
    remote.answers["/health"] = health
    engine = make(poll_s=0.001)
    await engine.start()
    path = "/health" if health == 200 else "/v1/models"
    await remote.asked_again(path, 2)
    assert state_of(engine) is EngineState.READY
    remote.answers[path] = 503
    failure = await engine.wait_failed()
    assert failure.reason is FailureReason.UNHEALTHY
    assert f"GET {path} is answered 503" in failure.detail
    assert state_of(engine) is EngineState.FAILED
    remote.answers[path] = MODELS
    await engine.start()
    assert state_of(engine) is EngineState.READY
    assert engine.failure is None


async def test_sign_of_life_that_is_missed_now_and_then_is_no_failure(remote: Remote, make: Make) -> None:
    engine = make(poll_s=0.001)
    remote.answers["/health"] = 200
    await engine.start()
    statuses = iter([503, 503, 200] * 5)
    remote.answers["/health"] = lambda _: next(statuses, 200)
    await remote.asked_again("/health", 20)
    assert state_of(engine) is EngineState.READY


async def test_server_that_closed_its_port_fails_its_engine(aiohttp_server: AiohttpServer) -> None:
    remote = Remote()
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", remote.answer)
    server = await aiohttp_server(app)
    engine = ExternalEngine(ExternalSpec(url=f"http://127.0.0.1:{server.port}"), poll_s=0.001)
    await engine.start()
    await server.close()
    failure = await engine.wait_failed()
    assert "refuses connections" in failure.detail
    await engine.stop()
    assert state_of(engine) is EngineState.FAILED


async def test_condemned_engine_is_failed_for_the_reason_given_and_may_start_again(make: Make) -> None:
    engine = make()
    await engine.start()
    hangs = EngineFailure(FailureReason.UNHEALTHY, "it hangs")
    await engine.condemn(hangs)
    assert state_of(engine) is EngineState.FAILED
    assert await engine.wait_failed() is hangs
    await engine.condemn(EngineFailure(FailureReason.CRASHED, "later"))
    assert engine.failure is hangs
    await engine.start()
    assert state_of(engine) is EngineState.READY


async def test_ready_engine_cannot_be_started(make: Make) -> None:
    engine = make()
    with pytest.raises(RuntimeError, match="never ready"):
        _ = engine.endpoint
    await engine.start()
    with pytest.raises(IllegalTransition):
        await engine.start()


async def test_cancelled_start_leaves_the_engine_stopped(remote: Remote, make: Make) -> None:
    remote.answers["/health"] = 503
    engine = make()
    starting = asyncio.create_task(engine.start())
    await remote.asked_again("/health", 1)
    starting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await starting
    assert state_of(engine) is EngineState.STOPPED
