"""The contract's table of errors: each status, in the one shape."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager

import pytest
import requests

from tests.e2e.client import CHAT, COMPLETIONS, DONE, MODELS, Client, Json, chat, checked_error, endless, error_of
from tests.e2e.program import Program, until

LIMIT_BYTES = 10 * 1024 * 1024
POSTS = (CHAT, COMPLETIONS, "/chat")


@pytest.mark.parametrize(
    "fields",
    [
        {"temperature": -0.1},
        {"temperature": 2.1},
        {"top_p": 0},
        {"top_p": 1.5},
        {"top_k": -2},
        {"min_p": 2},
        {"repetition_penalty": 0},
        {"max_tokens": 0},
        {"max_tokens": -1},
        {"max_tokens": 10**9},
        {"n": 0},
        {"presence_penalty": 3},
    ],
    ids=json.dumps,
)
@pytest.mark.parametrize("path", POSTS)
def test_impossible_values_are_400_and_name_the_field(demo: Client, path: str, fields: Json) -> None:
    body = {"prompt": "Hello"} if path != CHAT else chat()
    error = error_of(demo.post(path, {**body, **fields}), 400)
    assert error["param"] == next(iter(fields))


@pytest.mark.parametrize("raw", [b"", b"{", b'{"message": "\xff"}', b'{"message": "\\ud800"}', b"[" * 5000])
@pytest.mark.parametrize("path", POSTS)
def test_body_that_is_not_json_is_400(demo: Client, path: str, raw: bytes) -> None:
    assert error_of(demo.post(path, raw=raw), 400)["code"] == "invalid_json"


@pytest.mark.parametrize(
    ("path", "body"),
    [
        (CHAT, {}),
        (CHAT, []),
        (CHAT, None),
        (CHAT, {"messages": []}),
        (CHAT, {"messages": "Hello"}),
        (CHAT, {"messages": [{"content": "Hello"}]}),
        (CHAT, {"messages": [{"role": "user", "content": 5}]}),
        (CHAT, chat(temperature="0.7")),
        (CHAT, chat(stop=[1])),
        (CHAT, chat(stream="yes")),
        (COMPLETIONS, {}),
        (COMPLETIONS, {"prompt": None}),
        (COMPLETIONS, {"prompt": 5}),
        ("/chat", {"message": 5}),
        ("/chat", {"message": ""}),
        ("/chat", {"prompt": ["a"]}),
        ("/chat", {"messages": {}}),
        ("/chat", {"message": "Hello", "system": 1}),
        ("/chat", {"message": "Hello", "enable_thinking": "yes"}),
    ],
    ids=json.dumps,
)
def test_wrong_shapes_are_422(demo: Client, path: str, body: Json) -> None:
    error_of(demo.post(path, body), 422)


def test_chat_without_a_question_names_the_three_spellings(demo: Client) -> None:
    error = error_of(demo.post("/chat", {"system": "Be brief."}), 422)
    assert all(name in error["message"] for name in ("'message'", "'prompt'", "'messages'"))


@pytest.mark.parametrize("prompt", ["", [], [[]], [-1], [10**9]], ids=json.dumps)
def test_prompt_that_holds_nothing_is_400(demo: Client, prompt: object) -> None:
    assert error_of(demo.post(COMPLETIONS, {"prompt": prompt}), 400)["param"] == "prompt"


@pytest.mark.parametrize(
    "authorization", [None, "", "Bearer", "Bearer ", "Bearer wrong", "Basic d3Jvbmc=", "Bearer null"]
)
@pytest.mark.parametrize("path", ["/", "/status", MODELS, *POSTS])
def test_missing_or_wrong_key_is_401(demo: Client, path: str, authorization: str | None) -> None:
    stranger = Client(demo.base_url, key=None)
    headers = {} if authorization is None else {"Authorization": authorization}
    refused = stranger.post(path, chat(), headers=headers) if path in POSTS else stranger.get(path, headers=headers)
    assert error_of(refused, 401)["code"] == "invalid_api_key"
    assert refused.headers["WWW-Authenticate"] == "Bearer"


def test_bytes_that_are_no_text_are_a_wrong_key(demo: Client) -> None:
    stranger = Client(demo.base_url, key=None)
    refused = stranger.post("/chat", {"message": "Hello"}, headers={"Authorization": "Bearer \xff\xe9"})
    error_of(refused, 401)


@pytest.mark.parametrize("path", ["/nowhere", "/v1", "/v1/embeddings", "/health/more", "/chat/"])
def test_unknown_path_is_404_whoever_asks(demo: Client, path: str) -> None:
    for client in (demo, Client(demo.base_url, key=None)):
        assert error_of(client.get(path), 404)["code"] == "not_found"


def test_wrong_method_is_405_and_tells_the_right_one(demo: Client) -> None:
    refused = demo.get(CHAT)
    error_of(refused, 405)
    assert refused.headers["Allow"] == "POST"
    assert "GET" in demo.post("/health").headers["Allow"]


@pytest.mark.parametrize("path", POSTS)
def test_body_over_ten_megabytes_is_413(demo: Client, path: str) -> None:
    error_of(demo.post(path, raw=b" " * (LIMIT_BYTES + 1)), 413)


def test_body_of_just_ten_megabytes_is_read(demo: Client) -> None:
    body = json.dumps(chat()).encode()
    assert demo.post(CHAT, raw=b" " * (LIMIT_BYTES - len(body)) + body).status_code == 200


def queue_of(client: Client) -> tuple[int, int]:
    queue = client.get("/status").json()["queue"]
    return queue["running"], queue["waiting"]


@contextmanager
def occupied(tight: Client) -> Iterator[Iterator[str]]:
    """A service that has one place, which is taken."""
    until(lambda: queue_of(tight) == (0, 0), what="a free service")
    with tight.stream(CHAT, endless(stream=True, max_tokens=400)) as (response, found):
        assert response.status_code == 200
        next(found)
        yield found


def test_full_queue_is_429_with_a_time_to_come_back(tight: Client) -> None:
    with ThreadPoolExecutor() as threads, occupied(tight) as running:
        waiting: Future[requests.Response] = threads.submit(tight.post, CHAT, chat())
        until(lambda: queue_of(tight) == (1, 1), what="somebody waiting")
        for path in POSTS:
            refused = tight.post(path, {**chat(), "prompt": "Hello"})
            assert error_of(refused, 429)["code"] == "queue_full"
            assert 1 <= int(refused.headers["Retry-After"]) <= 60
        assert list(running)[-1] == DONE
        assert waiting.result().status_code == 200


def test_client_that_leaves_the_queue_frees_its_place(tight: Client) -> None:
    with occupied(tight):
        left = threading.Event()

        def give_up() -> None:
            with pytest.raises(requests.ReadTimeout):
                requests.post(tight.base_url + CHAT, json=chat(), headers=tight.headers, timeout=0.5)
            left.set()

        impatient = threading.Thread(target=give_up)
        impatient.start()
        until(lambda: queue_of(tight) == (1, 1), what="somebody waiting")
        impatient.join()
        assert left.is_set()
        until(lambda: queue_of(tight) == (1, 0), what="an empty queue")
    until(lambda: queue_of(tight) == (0, 0), what="a stream that ended with its client")


def test_request_past_its_time_is_504(hasty: Client) -> None:
    simple = {"message": "Tell me a story", "max_tokens": 900, "ignore_eos": True}
    for path, body in ((CHAT, endless(max_tokens=900)), ("/chat", simple)):
        assert error_of(hasty.post(path, body), 504)["code"] == "request_timeout"


def test_stream_past_its_time_ends_with_an_error_event(hasty: Client) -> None:
    *pieces, last, done = hasty.streamed(CHAT, endless(stream=True, max_tokens=900))
    assert done == DONE
    assert checked_error(json.loads(last))["code"] == "request_timeout"
    assert len(pieces) > 2


def test_while_the_model_loads_everything_is_503(start: Callable[..., Program]) -> None:
    program = start()
    answer = program.listens()
    assert answer.status_code == 503
    assert int(answer.headers["Retry-After"]) > 0
    client = Client(program.url())
    for path in POSTS:
        refused = client.post(path, {**chat(), "prompt": "Hello"})
        assert error_of(refused, 503)["code"] == "engine_not_ready"
        assert int(refused.headers["Retry-After"]) > 0
    program.becomes_ready()
    assert client.post(CHAT, chat()).status_code == 200
