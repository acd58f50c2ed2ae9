"""The first questions to an engine: a session with it, and one real token, which proves more than any `/health`."""

from __future__ import annotations

from typing import Any

import aiohttp

from backends.base import Dialect, Endpoint

EMBEDDINGS_PATH = "/v1/embeddings"
_FIRST_TOKEN_LIMIT_S = 60.0
_MOST_TOLD = 300


class NoAnswer(Exception):
    """The engine gave no token. `status` is that of its refusal, None where there was no answer at all."""

    def __init__(self, message: str, status: int | None = None) -> None:
        super().__init__(message)
        self.status = status


def open_session(endpoint: Endpoint) -> aiohttp.ClientSession:
    """For absolute URLs. Proxies named by the environment are not asked."""
    connector = aiohttp.UnixConnector(endpoint.uds_path) if endpoint.uds_path else aiohttp.TCPConnector()
    headers = {"Authorization": f"Bearer {endpoint.api_key}"} if endpoint.api_key else {}
    return aiohttp.ClientSession(connector=connector, headers=headers, trust_env=False)


def smallest_request(endpoint: Endpoint) -> tuple[str, dict[str, Any]]:
    """Path and body, but for `model`, of the cheapest request that has something computed: a token, or a vector.

    A server of which nothing but OpenAI's API is known is asked for a chat: hosted models know no text completions.
    """
    if endpoint.embeds:
        return EMBEDDINGS_PATH, {"input": "Hi"}
    asked: dict[str, Any] = {"max_tokens": 1, "temperature": 0}
    if endpoint.dialect is Dialect.OPENAI:
        return "/v1/chat/completions", {**asked, "messages": [{"role": "user", "content": "Hi"}]}
    return "/v1/completions", {**asked, "prompt": "Hi"}


async def first_token(session: aiohttp.ClientSession, endpoint: Endpoint, model: str) -> None:
    """Ask for one token, or one vector. Raises `NoAnswer` where it does not come."""
    path, body = smallest_request(endpoint)
    limit = aiohttp.ClientTimeout(total=_FIRST_TOKEN_LIMIT_S)
    body["model"] = model
    try:
        async with session.post(endpoint.base_url + path, json=body, timeout=limit, allow_redirects=False) as answer:
            if answer.status != 200:
                text = _told(await answer.text(errors="replace"), endpoint.api_key)
                raise NoAnswer(f"the first request was answered {answer.status}: {text}", answer.status)
            await answer.read()
    except TimeoutError:
        raise NoAnswer(f"no token within {_FIRST_TOKEN_LIMIT_S:g} s") from None
    except aiohttp.ClientError as error:
        raise NoAnswer(f"the connection broke on the first request: {error}") from error


def _told(text: str, api_key: str) -> str:
    """The beginning of a refusal; some servers repeat the key that they refuse."""
    return (text.replace(api_key, "...") if api_key else text)[:_MOST_TOLD]
