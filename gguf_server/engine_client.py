"""The gateway's HTTP client of one running engine. All engines speak OpenAI, so there is one."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from contextvars import ContextVar
from enum import StrEnum
from types import MappingProxyType
from typing import Any, Final, Protocol

import aiohttp
import orjson

from backends.base import Endpoint
from backends.readiness import EMBEDDINGS_PATH, smallest_request
from gguf_server import dialects
from gguf_server.dialect_bodies import translate
from gguf_server.dialect_errors import error_fields, status_of
from gguf_server.errors import BadRequest, ContextExceeded, GatewayError, ModelNotFound, QueueFull, WrongShape

_CONNECT_TIMEOUT_S: Final = 5.0
_ASKING: Final = ("/v1/chat/completions", "/v1/completions")
_READ_CHUNK_BYTES: Final = 1 << 16
_COUNT_TIMEOUT_S: Final = 30.0
_METRICS_TIMEOUT_S: Final = 5.0
_MAX_METRICS_BYTES: Final = 8 << 20
# What reading raises where the connection went: aiohttp has no error of its own for one that closes between two reads.
_BROKE_OFF: Final = (aiohttp.ClientError, RuntimeError)


TRACE_HEADERS: Final[ContextVar[Mapping[str, str]]] = ContextVar("trace_headers", default=MappingProxyType({}))
"""Go along with what is asked of an engine, so that its spans are found below the gateway's."""


class Fault(StrEnum):
    """What an engine did to a request, in words that figures are kept by.

    STALLED: it was silent for too long. GIVEN_UP: the gateway ended it, or found it gone, while it was answering.
    """

    UNREACHABLE = "unreachable"
    BROKE_OFF = "broke_off"
    ANSWERED_5XX = "answered_5xx"
    BAD_ANSWER = "bad_answer"
    STALLED = "stalled"
    GIVEN_UP = "given_up"


class EngineError(Exception):
    """The engine failed: it is gone, broke off, or answered 5xx. Another engine may be able to answer.

    The message is the gateway's own: an engine's words may repeat what a client sent, and this one is logged.
    """

    def __init__(self, message: str, fault: Fault = Fault.BAD_ANSWER) -> None:
        super().__init__(message)
        self.fault = fault


class Listener(Protocol):
    """Is told of each piece of a stream that has come, and when the next is waited for."""

    def heard(self) -> None: ...

    def waits(self) -> None: ...


class EngineClient:
    """Connections to one engine, from its start to its end. Whoever waits for an answer is to be cut before `close`."""

    def __init__(self, endpoint: Endpoint) -> None:
        # A connection for each request: an engine that closes an idle one in the moment it is used again would cost
        # somebody their answer (vLLM does so after 5 s), and a new one on this machine costs 0.1 ms.
        connector = (
            aiohttp.UnixConnector(endpoint.uds_path, limit=0, force_close=True)
            if endpoint.uds_path is not None
            else aiohttp.TCPConnector(limit=0, force_close=True)
        )
        self.endpoint = endpoint
        self._session = aiohttp.ClientSession(
            connector=connector,
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=_CONNECT_TIMEOUT_S),
            headers={"Authorization": f"Bearer {endpoint.api_key}"} if endpoint.api_key else None,
            cookie_jar=aiohttp.DummyCookieJar(),  # what one client's answer sets is not for another's request
            read_bufsize=_READ_CHUNK_BYTES,
            trust_env=False,
        )

    async def close(self) -> None:
        await self._session.close()

    async def post_json(self, path: str, body: dict[str, Any], request_id: str) -> dict[str, Any]:
        """One whole answer. Raises `EngineError`, or the `GatewayError` that the engine's refusal amounts to."""
        async with self._post(path, body, request_id) as response:
            try:
                answer = orjson.loads(await response.read())
            except (*_BROKE_OFF, orjson.JSONDecodeError) as error:
                raise EngineError(f"the engine's answer broke off: {type(error).__name__}", _fault_of(error)) from error
            if not isinstance(answer, dict):
                raise EngineError("the engine's answer is no JSON object")
            return answer

    async def answer(self, path: str, body: dict[str, Any], request_id: str) -> dict[str, Any]:
        """A whole answer with its `choices`, or the `data` of embeddings. Raises as `post_json` does."""
        answer = await self.post_json(path, body, request_id)
        holds = "data" if path == EMBEDDINGS_PATH else "choices"
        if not isinstance(answer.get(holds), list):
            raise EngineError(f"the engine's answer holds no {holds}")
        return answer

    @asynccontextmanager
    async def stream(
        self, path: str, body: dict[str, Any], request_id: str, listener: Listener
    ) -> AsyncIterator[AsyncIterator[bytes]]:
        """Server-sent events as bytes, cut wherever the network cut them.

        Raises as `post_json` does.
        """
        async with self._post(path, body, request_id) as response:
            yield _read(response, listener)

    async def count_tokens(self, body: dict[str, Any], request_id: str) -> int | None:
        """Prompt tokens of `messages` in `body`; None where the chat template refuses them. Raises `EngineError`."""
        async with _counting():
            return await dialects.count_tokens(self.endpoint.dialect, self._post_for(request_id), body)

    async def count_text(self, text: str, request_id: str) -> int:
        """Tokens of a text by itself. Raises `EngineError`."""
        try:
            async with _counting():
                return await dialects.count_text(self.endpoint.dialect, self._post_for(request_id), text)
        except GatewayError as refused:
            raise EngineError("the engine does not count tokens") from refused

    async def one_token(self, request_id: str) -> None:
        """Ask for the cheapest sign of life there is. Raises `EngineError` where it does not come."""
        path, body = smallest_request(self.endpoint)
        try:
            await self.answer(path, body, request_id)
        except GatewayError as refused:
            raise EngineError(f"the engine refuses to answer: {refused.code}") from refused

    async def steps(self) -> tuple[float, ...]:
        """Figures of which one at least changes with each step; none where it does not say.

        Raises `EngineError`, and TimeoutError where it hangs.
        """
        names = self.endpoint.steps_metrics
        if not names:
            return ()
        _, text = await self.metrics(timeout_s=_METRICS_TIMEOUT_S)
        return tuple(_series(text, name) for name in names)

    async def metrics(self, *, timeout_s: float) -> tuple[int, str]:
        """Status and text of its `/metrics`. Raises `EngineError`, and TimeoutError where it hangs."""
        self._check_open()
        try:
            async with (
                asyncio.timeout(timeout_s),
                self._session.get(self.endpoint.base_url + "/metrics", allow_redirects=False) as response,
            ):
                said = bytearray()
                async for chunk in response.content.iter_any():
                    said += chunk
                    if len(said) > _MAX_METRICS_BYTES:
                        raise EngineError("the engine's metrics have no end")
                return response.status, said.decode(errors="replace")
        except _BROKE_OFF as error:
            raise EngineError(f"the engine does not answer: {type(error).__name__}", Fault.UNREACHABLE) from error

    def _check_open(self) -> None:
        """Who was between two questions when the engine was given up runs once more before the cut reaches them."""
        if self._session.closed:
            raise EngineError("the engine was given up", Fault.GIVEN_UP)

    def _post_for(self, request_id: str) -> dialects.Post:
        return lambda path, body: self.post_json(path, body, request_id)

    @asynccontextmanager
    async def _post(self, path: str, body: dict[str, Any], request_id: str) -> AsyncIterator[aiohttp.ClientResponse]:
        headers = {"Content-Type": "application/json", "X-Request-Id": request_id, **TRACE_HEADERS.get()}
        if path.startswith(_ASKING):
            body = translate(self.endpoint.dialect, body)
        if self.endpoint.model is not None:
            body = {**body, "model": self.endpoint.model}
        try:
            data = orjson.dumps(body)
        except orjson.JSONEncodeError as error:  # deeper or larger than what came in could be: say so, and not where
            raise BadRequest("the body is nested too deeply, or holds a number that is too large") from error
        self._check_open()
        try:
            url = self.endpoint.base_url + path
            response = await self._session.post(url, data=data, headers=headers, allow_redirects=False)
        except aiohttp.ClientError as error:
            raise EngineError(f"the engine does not answer: {type(error).__name__}", Fault.UNREACHABLE) from error
        async with response:
            if response.status != 200:
                raise await _refusal(response)
            yield response


@asynccontextmanager
async def _counting() -> AsyncIterator[None]:
    try:
        async with asyncio.timeout(_COUNT_TIMEOUT_S):
            yield
    except TimeoutError as error:
        raise EngineError("the engine does not count tokens any more", Fault.STALLED) from error
    except (KeyError, TypeError, ValueError) as error:
        raise EngineError("the engine counts tokens in a way nobody here knows") from error


def _series(exposition: str, name: str) -> float:
    """The sum over all label sets of one series in Prometheus' text format."""
    found = [line.rpartition(" ")[2] for line in exposition.splitlines() if line.startswith((f"{name} ", f"{name}{{"))]
    try:
        return sum(map(float, found))
    except ValueError:
        return 0.0


async def _read(response: aiohttp.ClientResponse, listener: Listener) -> AsyncIterator[bytes]:
    while True:
        try:
            chunk = await response.content.readany()
        except _BROKE_OFF as error:
            raise EngineError(f"the engine's stream broke off: {type(error).__name__}", Fault.BROKE_OFF) from error
        if not chunk:
            return
        listener.heard()
        yield chunk
        listener.waits()


def _fault_of(error: Exception) -> Fault:
    return Fault.BROKE_OFF if isinstance(error, _BROKE_OFF) else Fault.BAD_ANSWER


async def _refusal(response: aiohttp.ClientResponse) -> Exception:
    """What an answer other than 200 means to our client."""
    try:
        parsed = orjson.loads(await response.read())
    except (*_BROKE_OFF, orjson.JSONDecodeError):
        parsed = {}
    body = parsed if isinstance(parsed, dict) else {}
    status = status_of(response.status, body)
    message, param, code = error_fields(body)
    if code == QueueFull.code:  # it is well, and has enough to do
        return QueueFull(message)
    if status >= 500 or status in (401, 403):
        return EngineError(f"the engine answered {status}", Fault.ANSWERED_5XX)
    return refusal(status, message, param, code)


def refusal(status: int, message: str, param: str | None = None, code: str | None = None) -> GatewayError:
    """An engine's 4xx as our own. The client's mistake, so no other engine is asked."""
    if code == "context_length_exceeded":
        return ContextExceeded(message, param=param)
    if status == 404:
        return ModelNotFound(message, param=param)
    if status == 422:
        return WrongShape(message, param=param)
    if status == 429:
        return QueueFull(message)
    return BadRequest(message, param=param, code=code)
