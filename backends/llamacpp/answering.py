"""From a request to the choices that answer it: its prompt, what steers each answer, and what of it is shown."""

from __future__ import annotations

from dataclasses import replace

from backends.llamacpp import allowed_tokens, bad_words, best_of, logprob_requests, requests, structured, thinking
from backends.llamacpp.chat_template import TemplateError
from backends.llamacpp.choices import Choices, Display
from backends.llamacpp.completion_prompts import completion_prompts
from backends.llamacpp.engine import LlamaEngine
from backends.llamacpp.generation import Generation
from backends.llamacpp.guide import MakeGuide
from backends.llamacpp.image_decoding import ImageError
from backends.llamacpp.native import NativeError
from backends.llamacpp.prompts import Prompt, UnsupportedContent
from backends.llamacpp.requests import ApiError
from backends.llamacpp.structured import Constraint
from backends.llamacpp.tool_answers import with_calls, without_calls
from backends.openai_schema import ChatCompletionRequest, CompletionRequest, GenerationRequest, TokenizeRequest

_DEFAULT_MAX_TOKENS = 16  # of a text completion: OpenAI's


async def chat_choices(engine: LlamaEngine, body: ChatCompletionRequest) -> Choices:
    """Raises `ApiError`."""
    requests.refuse_unsupported(body)
    use = requests.tool_use(body)
    must_call = use is not None and use.required
    asked = None if must_call else structured.constraint(body)
    n_logprobs = logprob_requests.n_logprobs(body)
    prompt, limit = await chat_prompt(engine, body), None
    if (markers := await engine.prompts.thought_markers()) is not None:
        prompt, limit = thinking.limit(body, prompt, markers, n_ctx=engine.loaded.n_ctx)
    made = await _generations(engine, body, prompt, body.token_budget)
    made = await _constrained(engine, made, asked, prompt)
    tools = None
    if use is not None and asked is None:
        made, tools = await with_calls(engine, made, prompt, use)
    elif use is None and body.tools:
        made = without_calls(engine, made, prompt)
    await _encode_images(engine, prompt)
    generations = [replace(one, thought=limit, n_logprobs=n_logprobs) for one in made]
    display = Display(logprobs=n_logprobs is not None, reasoning=body.include_reasoning is not False)
    is_bound = must_call or asked is not None
    return Choices(engine, generations, chat=prompt, display=display, is_bound=is_bound, tools=tools)


async def text_choices(engine: LlamaEngine, body: CompletionRequest) -> Choices:
    """Raises `ApiError`."""
    requests.refuse_unsupported(body)
    asked = structured.constraint(body)
    n_logprobs = logprob_requests.n_logprobs(body)
    n_best = best_of.n_best(body)
    max_tokens = _DEFAULT_MAX_TOKENS if body.max_tokens is None else body.max_tokens
    generations, echoes = list[Generation](), list[str | None]()
    for prompt in await completion_prompts(body, engine.prompts, engine.loaded.model):
        made = await _generations(engine, body, Prompt(prompt.tokens), max_tokens)
        generations += made
        echoes += [prompt.echo] * len(made)
    scores_prompt = bool(body.echo) and n_logprobs is not None
    n_rated = 0 if n_logprobs is None and n_best is not None else n_logprobs
    generations = await _constrained(engine, generations, asked)
    generations = [replace(one, n_logprobs=n_rated, scores_prompt=scores_prompt) for one in generations]
    display = Display(logprobs=n_logprobs is not None, n_best=n_best)
    return Choices(engine, generations, chat=None, display=display, echoes=echoes)


async def chat_prompt(engine: LlamaEngine, body: ChatCompletionRequest | TokenizeRequest) -> Prompt:
    """Raises `ApiError` 400 for messages that the template or the model cannot take."""
    requests.check_continuation(body)
    try:
        return await engine.prompts.chat(body)
    except TemplateError as error:
        raise ApiError(400, str(error), code="chat_template_error", param="messages") from error
    except UnsupportedContent as error:
        raise ApiError(400, str(error), code="unsupported_content", param="messages") from error
    except ImageError as error:
        raise ApiError(400, str(error), code=error.code, param="messages") from error


async def _encode_images(engine: LlamaEngine, prompt: Prompt) -> None:
    """Only for a request that is known to fit and to be right: nothing takes longer before the first token."""
    if engine.vision is None or not prompt.pictures:
        return
    try:
        await engine.vision.encode(prompt.pictures)
    except NativeError as error:
        raise ApiError(500, "an image could not be encoded", code="engine_failed") from error


async def _generations(
    engine: LlamaEngine, body: GenerationRequest, prompt: Prompt, max_tokens: int | None
) -> list[Generation]:
    loaded = engine.loaded
    made = requests.generations(body, prompt.tokens, max_tokens, n_ctx=loaded.n_ctx, n_vocab=loaded.model.n_vocab)
    guides = allowed_tokens.guides(body, loaded.model.n_vocab) + await bad_words.guides(body, loaded.model)
    begun, healing, images = prompt.n_begun_tokens, prompt.healing, prompt.images
    return [replace(one, n_begun_tokens=begun, healing=healing, guides=guides, images=images) for one in made]


async def _constrained(
    engine: LlamaEngine, generations: list[Generation], asked: Constraint | None, chat: Prompt | None = None
) -> list[Generation]:
    """The same, held to a shape; stop strings are for answers that would not end by themselves."""
    if asked is None:
        return generations
    grammar = await structured.compiled(asked, engine.grammars)
    guide: MakeGuide = grammar.begin
    if chat is not None:
        guide = await structured.after_thought(grammar, engine.grammars, engine.prompts.reasoning, chat)
    held = [replace(one, guides=(*one.guides, guide)) for one in generations]
    return [replace(one, stops=()) for one in held] if asked.ends_by_itself else held
