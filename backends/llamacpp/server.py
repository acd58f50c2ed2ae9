"""The worker's HTTP side: OpenAI's endpoints over one `LlamaEngine`."""

from __future__ import annotations

import secrets
import time
from collections.abc import Awaitable, Callable
from importlib.metadata import version
from typing import Final

import orjson
from aiohttp import web
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry

from backends.base import EngineState
from backends.llamacpp import embeddings, requests
from backends.llamacpp.answering import chat_choices, chat_prompt, text_choices
from backends.llamacpp.choices import Choices
from backends.llamacpp.engine import LlamaEngine, TooBusy
from backends.llamacpp.metrics import exposition, make_registry
from backends.llamacpp.options import WorkerOptions
from backends.llamacpp.request_log import CLIENT_LEFT_STATUS, add_request_id, identify_and_log, log_unexpected
from backends.llamacpp.requests import ApiError
from backends.llamacpp.responses import ChatShape, Shape, TextShape
from backends.llamacpp.sending import send_stream, send_whole
from backends.openai_schema import (
    ChatCompletionRequest,
    CompletionRequest,
    DetokenizeRequest,
    EmbeddingRequest,
    GenerationRequest,
    TokenizeRequest,
)

MAX_BODY_BYTES: Final = 64 << 20
ENGINE: Final = web.AppKey("engine", LlamaEngine)
OPTIONS: Final = web.AppKey("options", WorkerOptions)
REGISTRY: Final = web.AppKey("registry", CollectorRegistry)
STARTED_AT: Final = web.AppKey("started_at", int)

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


def make_app(engine: LlamaEngine, options: WorkerOptions) -> web.Application:
    app = web.Application(client_max_size=MAX_BODY_BYTES, middlewares=[identify_and_log, _errors, _key_and_readiness])
    app.on_response_prepare.append(add_request_id)
    app[ENGINE] = engine
    app[OPTIONS] = options
    app[REGISTRY] = make_registry(engine)
    app[STARTED_AT] = int(time.time())
    app.add_routes(
        [
            web.get("/health", health),
            web.get("/metrics", metrics),
            web.get("/version", show_version),
            web.get("/v1/models", list_models),
            web.get("/v1/models/{id:.+}", show_model),
            web.post("/v1/chat/completions", chat_completions),
            web.post("/v1/completions", completions),
            web.post("/v1/embeddings", create_embeddings),
            web.post("/tokenize", tokenize),
            web.post("/detokenize", detokenize),
        ]
    )
    return app


@web.middleware
async def _errors(request: web.Request, handler: Handler) -> web.StreamResponse:
    try:
        return await handler(request)
    except ApiError as error:
        return _json(error.body(), status=error.status)
    except web.HTTPException as error:
        problem = ApiError(error.status, error.reason, code=error.reason.lower().replace(" ", "_"))
        return _json(problem.body(), status=error.status)
    except web.RequestPayloadError:
        problem = ApiError(
            400, "the body is not what its headers say: broken encoding, chunks or length", code="bad_body"
        )
        return _json(problem.body(), status=problem.status)
    except ConnectionResetError:
        # Nobody is there to be told; raised on, aiohttp would log it as our error.
        return web.Response(status=CLIENT_LEFT_STATUS)
    except Exception as error:  # noqa: BLE001 - the request boundary
        log_unexpected(error, request)
        return _json(ApiError(500, "an internal error", code="internal_error").body(), status=500)


@web.middleware
async def _key_and_readiness(request: web.Request, handler: Handler) -> web.StreamResponse:
    if request.path == "/health":
        return await handler(request)
    key = request.app[OPTIONS].api_key
    scheme, _, given = request.headers.get("Authorization", "").partition(" ")
    is_right = secrets.compare_digest(given.encode("utf-8", "surrogateescape"), key.encode())
    if key and not (is_right and scheme.lower() == "bearer"):
        raise ApiError(401, "missing or wrong key", code="invalid_api_key")
    if request.app[ENGINE].state is not EngineState.READY:
        raise ApiError(503, "the model is not loaded", code="engine_not_ready")
    return await handler(request)


async def health(request: web.Request) -> web.Response:
    engine = request.app[ENGINE]
    if engine.state is EngineState.READY:
        return _json({"status": "ok"})
    failure = engine.failure.detail if engine.failure else None
    body = {"status": engine.state, "progress": round(engine.progress, 3), "failure": failure}
    return _json(body, status=503)


async def metrics(request: web.Request) -> web.Response:
    return web.Response(body=exposition(request.app[REGISTRY]), headers={"Content-Type": CONTENT_TYPE_LATEST})


async def show_version(request: web.Request) -> web.Response:
    return _json({"version": version("gguf-server")})


async def list_models(request: web.Request) -> web.Response:
    options = request.app[OPTIONS]
    return _json({"object": "list", "data": [_model_card(request, alias) for alias in options.aliases]})


async def show_model(request: web.Request) -> web.Response:
    model_id = request.match_info["id"]
    _check_model(request, model_id)
    return _json(_model_card(request, model_id))


async def chat_completions(request: web.Request) -> web.StreamResponse:
    body = requests.parse(ChatCompletionRequest, await request.read())
    _check_model(request, body.model)
    _check_generates(request, "Chat Completions")
    choices = await chat_choices(request.app[ENGINE], body)
    return await _send(request, body, choices, ChatShape(_model_name(request, body)))


async def completions(request: web.Request) -> web.StreamResponse:
    body = requests.parse(CompletionRequest, await request.read())
    _check_model(request, body.model)
    _check_generates(request, "Completions")
    choices = await text_choices(request.app[ENGINE], body)
    return await _send(request, body, choices, TextShape(_model_name(request, body)))


async def create_embeddings(request: web.Request) -> web.Response:
    body = requests.parse(EmbeddingRequest, await request.read())
    _check_model(request, body.model)
    options = request.app[OPTIONS]
    model = body.model or options.aliases[0]
    try:
        answer = await embeddings.answer(request.app[ENGINE], body, model, can_shorten=options.matryoshka)
    except TooBusy:
        raise ApiError(503, "too many requests are waiting", code="queue_full") from None
    return web.Response(body=answer, content_type="application/json")


async def tokenize(request: web.Request) -> web.Response:
    body = requests.parse(TokenizeRequest, await request.read())
    engine = request.app[ENGINE]
    if body.prompt is not None:
        tokens = await engine.prompts.text(body.prompt, add_special=body.add_special_tokens is not False)
    else:
        tokens = (await chat_prompt(engine, body)).tokens
    count = len(tokens)
    tokens = [token for token in tokens if token >= 0]  # what stands for images is nobody's token
    token_strs = [engine.loaded.model.token_text(token) for token in tokens] if body.return_token_strs else None
    return _json({"count": count, "max_model_len": engine.loaded.n_ctx, "tokens": tokens, "token_strs": token_strs})


async def detokenize(request: web.Request) -> web.Response:
    body = requests.parse(DetokenizeRequest, await request.read())
    model = request.app[ENGINE].loaded.model
    requests.check_token_ids(body.tokens, model.n_vocab, "tokens")
    return _json({"prompt": model.detokenize(body.tokens)})


async def _send(request: web.Request, body: GenerationRequest, choices: Choices, shape: Shape) -> web.StreamResponse:
    try:
        if body.stream:
            return await send_stream(request, choices, shape, with_usage=body.wants_usage)
        return await send_whole(choices, shape)
    except TooBusy:
        raise ApiError(503, "too many requests are waiting", code="queue_full") from None


def _model_name(request: web.Request, body: GenerationRequest) -> str:
    return body.model or request.app[OPTIONS].aliases[0]


def _check_generates(request: web.Request, api: str) -> None:
    if request.app[ENGINE].embedding is not None:
        raise ApiError(400, f"the model does not support the {api} API: it embeds texts", code="unsupported_operation")


def _check_model(request: web.Request, model: str | None) -> None:
    if model is not None and model not in request.app[OPTIONS].aliases:
        raise ApiError(404, f"the model {model!r} does not exist here", code="model_not_found", param="model")


def _model_card(request: web.Request, model_id: str) -> dict[str, object]:
    return {
        "id": model_id,
        "object": "model",
        "created": request.app[STARTED_AT],
        "owned_by": "llama.cpp",
        "max_model_len": request.app[ENGINE].loaded.n_ctx,
    }


def _json(body: object, *, status: int = 200) -> web.Response:
    return web.Response(body=orjson.dumps(body), status=status, content_type="application/json")
