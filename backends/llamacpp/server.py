"""The worker's HTTP side: OpenAI's endpoints over one `LlamaEngine`."""

from __future__ import annotations

import secrets
import sys
import time
import traceback
from collections.abc import Awaitable, Callable
from contextlib import aclosing
from dataclasses import replace
from typing import Final

import orjson
from aiohttp import web
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry

from backends.base import EngineState
from backends.llamacpp import bad_words, best_of, embeddings, logprob_requests, requests, structured, thinking
from backends.llamacpp.chat_template import TemplateError
from backends.llamacpp.choices import Choices, Display, Whole
from backends.llamacpp.completion_prompts import completion_prompts
from backends.llamacpp.engine import LlamaEngine, TooBusy
from backends.llamacpp.guide import MakeGuide
from backends.llamacpp.metrics import exposition, make_registry
from backends.llamacpp.options import WorkerOptions
from backends.llamacpp.prompts import Prompt, UnsupportedContent
from backends.llamacpp.reasoning import Channel
from backends.llamacpp.requests import ApiError
from backends.llamacpp.responses import DONE, ChatShape, Shape, TextShape, event
from backends.llamacpp.step_loop import Delta, Finish, Generation
from backends.llamacpp.structured import Constraint
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
    app = web.Application(client_max_size=MAX_BODY_BYTES, middlewares=[_errors, _key_and_readiness])
    app[ENGINE] = engine
    app[OPTIONS] = options
    app[REGISTRY] = make_registry(engine)
    app[STARTED_AT] = int(time.time())
    app.add_routes(
        [
            web.get("/health", health),
            web.get("/metrics", metrics),
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
    except ConnectionResetError:
        return web.Response(status=499)  # nobody is there to be told; raised on, aiohttp would log it as our error
    except Exception as error:  # noqa: BLE001 - the request boundary
        # The message might repeat what was sent: only the kind and the place are for the log.
        traceback.print_tb(error.__traceback__, file=sys.stderr)
        print(f"unexpected {type(error).__name__}", file=sys.stderr, flush=True)
        return _json(ApiError(500, "an internal error", code="internal_error").body(), status=500)


@web.middleware
async def _key_and_readiness(request: web.Request, handler: Handler) -> web.StreamResponse:
    if request.path == "/health":
        return await handler(request)
    key = request.app[OPTIONS].api_key
    given = request.headers.get("Authorization", "").removeprefix("Bearer ")
    if key and not secrets.compare_digest(given.encode("utf-8", "surrogateescape"), key.encode()):
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
    requests.refuse_unsupported(body)
    asked = structured.constraint(body)
    n_logprobs = logprob_requests.n_logprobs(body)
    engine = request.app[ENGINE]
    prompt = await _chat_prompt(request, body)
    markers, limit = await engine.prompts.thought_markers(), None
    if markers is not None:
        prompt, limit = thinking.limit(body, prompt, markers, n_ctx=engine.loaded.n_ctx)
    made = await _generations(request, body, prompt, body.token_budget)
    made = await _constrained(request, made, asked, prompt)
    generations = [replace(one, thought=limit, n_logprobs=n_logprobs) for one in made]
    display = Display(logprobs=n_logprobs is not None, reasoning=body.include_reasoning is not False)
    choices = Choices(engine, generations, chat=prompt, display=display, is_bound=asked is not None)
    return await _answer(request, body, choices, ChatShape(_model_name(request, body)))


async def completions(request: web.Request) -> web.StreamResponse:
    body = requests.parse(CompletionRequest, await request.read())
    _check_model(request, body.model)
    _check_generates(request, "Completions")
    requests.refuse_unsupported(body)
    asked = structured.constraint(body)
    n_logprobs = logprob_requests.n_logprobs(body)
    n_best = best_of.n_best(body)
    engine = request.app[ENGINE]
    max_tokens = 16 if body.max_tokens is None else body.max_tokens  # OpenAI's default
    generations, echoes = list[Generation](), list[str | None]()
    for prompt in await completion_prompts(body, engine.prompts, engine.loaded.model):
        made = await _generations(request, body, Prompt(prompt.tokens), max_tokens)
        generations += made
        echoes += [prompt.echo] * len(made)
    scores_prompt = bool(body.echo) and n_logprobs is not None
    n_rated = 0 if n_logprobs is None and n_best is not None else n_logprobs
    generations = await _constrained(request, generations, asked)
    generations = [replace(one, n_logprobs=n_rated, scores_prompt=scores_prompt) for one in generations]
    display = Display(logprobs=n_logprobs is not None, n_best=n_best)
    choices = Choices(engine, generations, chat=None, display=display, echoes=echoes)
    return await _answer(request, body, choices, TextShape(_model_name(request, body)))


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
        tokens = (await _chat_prompt(request, body)).tokens
    token_strs = [engine.loaded.model.token_text(token) for token in tokens] if body.return_token_strs else None
    return _json(
        {"count": len(tokens), "max_model_len": engine.loaded.n_ctx, "tokens": tokens, "token_strs": token_strs}
    )


async def detokenize(request: web.Request) -> web.Response:
    body = requests.parse(DetokenizeRequest, await request.read())
    model = request.app[ENGINE].loaded.model
    requests.check_token_ids(body.tokens, model.n_vocab, "tokens")
    return _json({"prompt": model.detokenize(body.tokens)})


async def _answer(request: web.Request, body: GenerationRequest, choices: Choices, shape: Shape) -> web.StreamResponse:
    try:
        if body.stream:
            return await _stream(request, choices, shape, with_usage=body.wants_usage)
        return await _collect(choices, shape)
    except TooBusy:
        raise ApiError(503, "too many requests are waiting", code="queue_full") from None


async def _collect(choices: Choices, shape: Shape) -> web.Response:
    wholes = [Whole() for _ in choices.generations]
    async with aclosing(choices.engine.generate(choices.generations)) as news:
        async for index, delta in news:
            wholes[index].take(choices.take(index, delta), choices.logprobs(index, delta))
    if Finish.ERROR in choices.finishes:
        raise ApiError(500, choices.failure, code="engine_failed")
    shown = choices.shown()
    finishes = [str(choices.finishes[i]) for i in shown]
    logprobs = [wholes[i].all_logprobs for i in shown]
    return _json(shape.whole([wholes[i].texts for i in shown], logprobs, finishes, choices.usage()))


async def _stream(request: web.Request, choices: Choices, shape: Shape, *, with_usage: bool) -> web.StreamResponse:
    """Server-sent events: one write per step and choice, always closed by `[DONE]`."""
    response = web.StreamResponse(
        headers={"Content-Type": "text/event-stream; charset=utf-8", "Cache-Control": "no-cache"}
    )
    opened = False
    async with aclosing(choices.engine.generate(choices.generations)) as news:
        async for index, delta in news:
            out = _chunks(choices, shape, index, delta)
            if not opened:
                await response.prepare(request)
                out = b"".join(shape.opening(i) for i in range(len(choices.generations))) + out
                opened = True
            if out:
                await response.write(out)
    await response.write((shape.usage(choices.usage()) if with_usage else b"") + DONE)
    await response.write_eof()
    return response


def _chunks(choices: Choices, shape: Shape, index: int, delta: Delta) -> bytes:
    """A delta's text, and its logprobs in the first chunk there is of it: a token whose text is held back has one."""
    pieces = choices.take(index, delta)
    logprobs = choices.logprobs(index, delta)
    out = b""
    for channel, text in pieces:
        out += shape.piece(index, channel, text, logprobs)
        logprobs = None
    if delta.finish is Finish.ERROR:
        return out + event(ApiError(500, choices.failure, code="engine_failed").body())
    if delta.finish is not None:
        return out + shape.closing(index, delta.finish, logprobs)
    return out + (shape.piece(index, Channel.CONTENT, "", logprobs) if logprobs else b"")


async def _chat_prompt(request: web.Request, body: ChatCompletionRequest | TokenizeRequest) -> Prompt:
    try:
        return await request.app[ENGINE].prompts.chat(body)
    except TemplateError as error:
        raise ApiError(400, str(error), code="chat_template_error", param="messages") from error
    except UnsupportedContent as error:
        raise ApiError(400, str(error), code="unsupported_content", param="messages") from error


async def _generations(
    request: web.Request, body: GenerationRequest, prompt: Prompt, max_tokens: int | None
) -> list[Generation]:
    loaded = request.app[ENGINE].loaded
    made = requests.generations(body, prompt.tokens, max_tokens, n_ctx=loaded.n_ctx, n_vocab=loaded.model.n_vocab)
    guides = await bad_words.guides(body, loaded.model)
    return [replace(one, n_begun_tokens=prompt.n_begun_tokens, healing=prompt.healing, guides=guides) for one in made]


def _model_name(request: web.Request, body: GenerationRequest) -> str:
    return body.model or request.app[OPTIONS].aliases[0]


def _check_generates(request: web.Request, api: str) -> None:
    if request.app[ENGINE].embedding is not None:
        raise ApiError(400, f"the model does not support the {api} API: it embeds texts", code="unsupported_operation")


async def _constrained(
    request: web.Request, generations: list[Generation], asked: Constraint | None, chat: Prompt | None = None
) -> list[Generation]:
    """The same, held to a shape; stop strings are for answers that would not end by themselves."""
    if asked is None:
        return generations
    engine = request.app[ENGINE]
    grammar = await structured.compiled(asked, engine.grammars)
    guide: MakeGuide = grammar.begin
    if chat is not None:
        guide = await structured.after_thought(grammar, engine.grammars, engine.prompts.reasoning, chat)
    held = [replace(one, guides=(*one.guides, guide)) for one in generations]
    return [replace(one, stops=()) for one in held] if asked.ends_by_itself else held


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
