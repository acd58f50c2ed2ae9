"""Who answers at an address: whether it can be reached, which model it has, what it speaks.

What is wrong becomes an `EngineFailure` with a sentence for the person who wrote the address down. A redirect is not
followed: the key is meant for one server.
"""

from __future__ import annotations

import asyncio
import errno
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Literal
from urllib.parse import urlsplit

import aiohttp

from backends.base import Dialect, Endpoint, EngineFailure, FailureReason
from backends.readiness import NoAnswer, first_token

_ASK_LIMIT_S = 10.0
_PAUSE_S = 0.5
_HELLO = [{"role": "user", "content": "Hi"}]
_KEY_REFUSED = (401, 403)


class ServerProbe:
    """Questions to the server at `endpoint`, over a session that the caller owns.

    Every method may raise `EngineFailure`, and waits at most ten seconds for one answer unless it says otherwise.
    """

    def __init__(self, session: aiohttp.ClientSession, endpoint: Endpoint) -> None:
        self._session = session
        self._endpoint = endpoint
        self._where = urlsplit(endpoint.base_url).netloc

    async def wait_loaded(self) -> str:
        """The path to ask for signs of life, once the server does not say any more that it is loading."""
        while True:
            status, _ = await self._ask("GET", "/health")
            if status != 503:
                return "/health" if status == 200 else "/v1/models"
            await asyncio.sleep(_PAUSE_S)

    async def first_model(self) -> str:
        """The model to ask for where the configuration names none."""
        status, answer = await self._ask("GET", "/v1/models")
        if status != 200:
            raise self._refused(status, "GET /v1/models")
        listed = answer.get("data")
        models = [item.get("id") for item in listed if isinstance(item, dict)] if isinstance(listed, list) else []
        if not models or not isinstance(models[0], str):
            raise _unhealthy(f"{self._where} has no models")
        return models[0]

    async def dialect(self, model: str) -> Dialect:
        """What it speaks beyond OpenAI's API.

        A llama-server that does not know `continue_final_message` (before June 2026) repeats the beginning that it is
        given to continue, so it counts as a server that cannot.
        """
        status, answer = await self._ask("POST", "/tokenize", {"model": model, "messages": _HELLO})
        if status == 200 and isinstance(answer.get("count"), int):
            return Dialect.VLLM
        status, answer = await self._ask("POST", "/apply-template", {"messages": _HELLO})
        if status == 200 and isinstance(answer.get("prompt"), str):
            contradiction = {"messages": _HELLO, "continue_final_message": True, "add_generation_prompt": True}
            status, _ = await self._ask("POST", "/apply-template", contradiction)
            return Dialect.LLAMA_SERVER if status == 400 else Dialect.OPENAI
        return Dialect.OPENAI

    async def token(self, dialect: Dialect, model: str) -> None:
        """Have one token computed; may take a minute."""
        try:
            await first_token(self._session, replace(self._endpoint, dialect=dialect), model)
        except NoAnswer as problem:
            if problem.status in _KEY_REFUSED:
                raise self._refused(problem.status, "the first request") from problem
            if problem.status == 404:
                raise _unhealthy(f"{self._where} does not know the model {model!r}") from problem
            raise _unhealthy(f"{self._where}: {problem}") from problem

    async def still_there(self, path: str) -> None:
        """Raises where the server is gone or says that it cannot serve. Any other answer will do."""
        status, _ = await self._ask("GET", path)
        if status >= 500 or status in _KEY_REFUSED:
            raise self._refused(status, f"GET {path}")

    async def _ask(
        self, method: Literal["GET", "POST"], path: str, body: Mapping[str, Any] | None = None
    ) -> tuple[int, dict[str, Any]]:
        """Status and JSON object; an empty one where the answer holds none."""
        limit = aiohttp.ClientTimeout(total=_ASK_LIMIT_S)
        url = self._endpoint.base_url + path
        try:
            async with self._session.request(method, url, json=body, timeout=limit, allow_redirects=False) as answer:
                if 300 <= answer.status < 400:
                    raise _unhealthy(f"{self._where} redirects {path} to elsewhere: give the address it leads to")
                try:
                    parsed = await answer.json(content_type=None)
                except ValueError:
                    parsed = None
                return answer.status, parsed if isinstance(parsed, dict) else {}
        except (aiohttp.ClientError, TimeoutError) as error:
            raise _unhealthy(self._in_words(error)) from error

    def _refused(self, status: int, what: str) -> EngineFailure:
        if status in _KEY_REFUSED:
            wrong = "refuses the key" if self._endpoint.api_key else "wants a key (api_key_env or api_key_file)"
            return _unhealthy(f"{self._where} {wrong}")
        if status == 404:
            return _unhealthy(f"{self._where} has no OpenAI API at this address: {what} is answered 404")
        return _unhealthy(f"{self._where}: {what} is answered {status}")

    def _in_words(self, error: BaseException) -> str:
        match error:
            case TimeoutError():
                return f"{self._where} does not answer within {_ASK_LIMIT_S:g} s"
            case aiohttp.ClientConnectorCertificateError(certificate_error=reason):
                told = getattr(reason, "verify_message", None) or reason
                return f"the certificate of {self._where} is not accepted: {told}"
            case aiohttp.ClientConnectorSSLError():
                return f"no TLS with {self._where}: it may speak plain http"
            case aiohttp.ClientConnectorDNSError():
                return f"the name of {self._where} cannot be resolved"
            case aiohttp.ClientConnectorError(os_error=OSError(errno=errno.ECONNREFUSED)):
                return f"{self._where} refuses connections: nothing listens there"
            case aiohttp.ClientConnectorError(os_error=reason):
                return f"{self._where} cannot be reached: {reason.strerror or type(reason).__name__}"
            case _:
                return f"{self._where} broke the connection: {type(error).__name__}"


def _unhealthy(detail: str) -> EngineFailure:
    return EngineFailure(FailureReason.UNHEALTHY, detail)
