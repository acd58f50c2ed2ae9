"""The contract's table: every service at each place where it can be reached."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from functools import partial

import pytest

from tests.e2e.client import CHAT, COMPLETIONS, DONE, MODELS, Client, Json, chat, chunks, content_of, error_of, user
from tests.e2e.program import Program, until
from tests.e2e.services import PROMISES, Promise

PIXEL = (
    "data:image/png;base64,"
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
)
OWN_PORT = "own port"
MOUNTS = [(name, path) for name, promise in PROMISES.items() for path in promise.paths]
MOUNTS += [(name, OWN_PORT) for name in ("qwen3", "gemma4", "qwen2.5")]


@pytest.fixture(params=MOUNTS, ids=lambda mount: f"{mount[0]} at {mount[1] or 'root'}")
def mounted(request: pytest.FixtureRequest, server: Program) -> tuple[Promise, Client]:
    """A service and one of its places."""
    name, mount = request.param
    base_url = server.url(service=name) if mount == OWN_PORT else server.url(mount)
    return PROMISES[name], Client(base_url)


@pytest.fixture(params=PROMISES)
def reached(request: pytest.FixtureRequest, server: Program) -> tuple[Promise, Client]:
    """A service at one place, where the others would tell nothing new."""
    promise = PROMISES[request.param]
    return promise, Client(server.url(promise.paths[-1]))


def test_health_needs_no_key_and_says_who_serves(mounted: tuple[Promise, Client]) -> None:
    promise, client = mounted
    answer = Client(client.base_url, key=None).get("/health")
    assert answer.status_code == 200
    body = answer.json()
    told = datetime.fromisoformat(body.pop("timestamp"))
    assert abs(datetime.now(UTC) - told) < timedelta(minutes=1)
    assert body == {
        "status": "healthy",
        "service": promise.service,
        "model": promise.reported,
        "engine": "llama.cpp",
        "vllm_server": "unavailable",
    }


def test_index_speaks_of_vllm_and_of_the_service_apart(mounted: tuple[Promise, Client]) -> None:
    promise, client = mounted
    error_of(Client(client.base_url, key=None).get("/"), 401)
    body = client.get("/").json()
    assert body["service"] == promise.title
    assert body["vllm_ready"] is False
    assert body["ready"] is True


def status_between_tries(client: Client) -> Json | None:
    """An engine that failed is tried again now and then, which takes a moment."""
    body: Json = client.get("/status").json()
    return None if any(engine["state"] == "starting" for engine in body["engines"]) else body


def test_status_tells_of_every_engine_why_it_does_not_serve(mounted: tuple[Promise, Client]) -> None:
    promise, client = mounted
    error_of(Client(client.base_url, key=None).get("/status"), 401)
    body = until(partial(status_between_tries, client), what="a moment in which no engine starts")
    assert (body["service"], body["model"], body["engine"]) == (promise.service, promise.reported, "llama.cpp")
    assert body["ready"] is True
    assert body["gpu"] is None
    assert body["uptime_s"] > 0
    assert body["queue"]["waiting"] == 0
    assert "running" in body["queue"]
    *failed, serving = body["engines"]
    assert (serving["kind"], serving["state"], serving["last_failure"]) == ("llamacpp", "ready", None)
    assert datetime.fromisoformat(serving["since"]) <= datetime.now(UTC)
    found = [(engine["kind"], engine["state"], engine["last_failure"]["reason"]) for engine in failed]
    expected = [("vllm", "failed", "not_installed"), ("llamacpp", "failed", "no_gpu")]
    assert found == (expected if promise.falls_back else [])
    assert all(engine["last_failure"]["detail"] for engine in failed)


def test_models_carry_their_context(mounted: tuple[Promise, Client]) -> None:
    promise, client = mounted
    error_of(Client(client.base_url, key=None).get(MODELS), 401)
    body = client.get(MODELS).json()
    assert body["object"] == "list"
    (card,) = body["data"]
    assert (card["id"], card["object"]) == (promise.model, "model")
    assert card["max_model_len"] == promise.max_model_len
    assert isinstance(card["created"], int)
    assert card["owned_by"]
    for name in (promise.model, *promise.aliases):
        card = client.get(f"{MODELS}/{name}").json()
        assert (card["id"], card["max_model_len"]) == (name, promise.max_model_len)
    assert error_of(client.get(f"{MODELS}/gpt-none"), 404)["code"] == "model_not_found"


def test_every_endpoint_that_computes_answers(mounted: tuple[Promise, Client]) -> None:
    promise, client = mounted
    whole = client.post(CHAT, chat()).json()
    assert whole["object"] == "chat.completion"
    assert whole["choices"][0]["message"]["role"] == "assistant"
    assert whole["usage"]["completion_tokens"] <= 6
    streamed = chunks(client.streamed(CHAT, chat(stream=True)))
    assert {chunk["object"] for chunk in streamed} == {"chat.completion.chunk"}
    text = client.post(COMPLETIONS, {"prompt": "Once upon a time", "max_tokens": 4}).json()
    assert text["object"] == "text_completion"
    assert text["choices"][0]["text"]
    assert client.post("/chat", {"message": "Hello", "max_tokens": 4}).json()["model"] == promise.reported


def test_all_names_of_a_model_are_taken_and_no_other(reached: tuple[Promise, Client]) -> None:
    promise, client = reached
    for name in (None, promise.model, *promise.aliases):
        assert client.post(CHAT, chat(model=name, max_tokens=1)).status_code == 200
    bodies: dict[str, Json] = {
        CHAT: chat(),
        COMPLETIONS: {"prompt": "Hello"},
        "/chat": {"message": "Hello"},
    }
    for path, body in bodies.items():
        error = error_of(client.post(path, {**body, "model": "gpt-none"}), 404)
        assert (error["code"], error["param"]) == ("model_not_found", "model")


def test_text_models_refuse_an_image(reached: tuple[Promise, Client]) -> None:
    promise, client = reached
    picture = user([{"type": "text", "text": "What is this?"}, {"type": "image_url", "image_url": {"url": PIXEL}}])
    for path in (CHAT, "/chat"):
        # The stand-in weights of the service that takes images have no eyes: its engine is the one that refuses.
        error = error_of(client.post(path, {"messages": [picture], "max_tokens": 2}), 400)
        assert error["code"] == "images_not_supported"
        assert ("engine" in error["message"]) is promise.takes_images


def test_images_are_not_fetched_for_anybody(server: Program) -> None:
    picture = user([{"type": "image_url", "image_url": {"url": server.url("/health")}}])
    error = error_of(Client(server.url("/gemma4")).post(CHAT, {"messages": [picture]}), 400)
    assert error["code"] == "remote_image_refused"


def test_defaults_of_a_service_hold_where_the_client_says_nothing(server: Program) -> None:
    limit = {"qwen3": 14000, "gemma4": 4096}
    for name, most in limit.items():
        error = error_of(Client(server.url(service=name)).post(CHAT, chat(max_tokens=most + 1)), 400)
        assert error["param"] == "max_tokens"
        assert str(most) in error["message"]


def test_request_id_is_echoed_or_made(demo: Client) -> None:
    for path in ("/health", "/nowhere"):
        assert demo.get(path, headers={"x-request-id": "mine-1"}).headers["x-request-id"] == "mine-1"
    made = [demo.get("/health", headers={"x-request-id": "not one\t!"}).headers["x-request-id"] for _ in range(2)]
    assert all(name.startswith("req-") for name in made)
    assert made[0] != made[1]
    with demo.stream(CHAT, chat(stream=True)) as (response, found):
        assert response.headers["x-request-id"].startswith("req-")
        assert response.headers["x-engine"] == "llama.cpp"
        assert list(found)[-1] == DONE


def test_stream_has_a_role_first_and_usage_last(demo: Client) -> None:
    asked = chat(stream=True, stream_options={"include_usage": True})
    first, *middle, last = chunks(demo.streamed(CHAT, asked))
    assert first["choices"][0]["delta"] == {"role": "assistant", "content": ""}
    assert last["choices"] == []
    usage = last["usage"]
    assert usage["total_tokens"] == usage["prompt_tokens"] + usage["completion_tokens"]
    assert middle[-1]["choices"][0]["finish_reason"] in ("stop", "length")
    assert content_of(middle)
    assert not any(chunk.get("usage") for chunk in (first, *middle))


def failures(client: Client) -> list[str] | None:
    """Why each engine failed, once all have."""
    told = [engine["last_failure"] for engine in client.get("/status").json()["engines"]]
    return [failure["reason"] for failure in told] if all(told) else None


def test_services_whose_engines_all_fail_say_so_and_when_to_come_back(start: Callable[..., Program]) -> None:
    config = (
        '[services.qwen3]\nport = 0\nweights = "nowhere.gguf"\n[services.gemma4]\nport = 0\nweights = "nowhere.gguf"'
    )
    program = start(config=config)
    program.listens()
    for name, port in (("qwen3", 8093), ("gemma4", 8092)):
        client = Client(program.url(PROMISES[name].paths[0]))
        answer = client.get("/health")
        assert answer.status_code == 503
        assert int(answer.headers["Retry-After"]) > 0
        body = answer.json()
        assert body["status"] == "vLLM not ready"
        assert body["vllm_url"] == f"http://localhost:{port}"
        assert (body["service"], body["model"]) == (PROMISES[name].service, PROMISES[name].reported)
        assert body["vllm_server"] == "unavailable"
        for path in (CHAT, "/chat"):
            refused = client.post(path, chat())
            assert error_of(refused, 503)["code"] == "engine_not_ready"
            assert int(refused.headers["Retry-After"]) > 0
        reasons = until(partial(failures, client), what="every engine's failure")
        assert reasons == ["not_installed", "weights_missing", "weights_missing"]
        assert client.get("/").json()["ready"] is False
    answer = Client(program.url()).get("/health")
    assert answer.status_code == 503
    assert int(answer.headers["Retry-After"]) > 0
