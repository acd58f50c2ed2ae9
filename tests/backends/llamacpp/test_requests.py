from __future__ import annotations

from typing import Any

import orjson
import pytest

from backends.llamacpp.best_of import n_best
from backends.llamacpp.generation import Generation
from backends.llamacpp.logprob_requests import n_logprobs
from backends.llamacpp.requests import ApiError, generations, parse, refuse_unsupported
from backends.openai_schema import ChatCompletionRequest, CompletionRequest

N_CTX, N_VOCAB = 100, 1000


def completion(**fields: Any) -> CompletionRequest:
    return parse(CompletionRequest, orjson.dumps({"prompt": "x", **fields}))


def chat(**fields: Any) -> ChatCompletionRequest:
    return parse(ChatCompletionRequest, orjson.dumps({"messages": [{"role": "user", "content": "x"}], **fields}))


def made(n_prompt_tokens: int = 10, max_tokens: int | None = None, **fields: Any) -> list[Generation]:
    return generations(completion(**fields), list(range(n_prompt_tokens)), max_tokens, n_ctx=N_CTX, n_vocab=N_VOCAB)


@pytest.mark.parametrize(
    ("raw", "code", "param"),
    [
        (b"{", "invalid_json", None),
        (b"\xff", "invalid_json", None),
        (b'{"prompt": "\\ud800"}', "invalid_json", None),
        (b"[" * 5000, "invalid_json", None),
        (b"[]", "invalid_value", None),
        (b"{}", "invalid_value", "prompt"),
        (b'{"prompt": 5}', "invalid_value", "prompt"),
        (b'{"prompt": "x", "temperature": "0.7"}', "invalid_value", "temperature"),
        (b'{"prompt": "x", "temperature": 3}', "invalid_value", "temperature"),
        (b'{"prompt": "x", "n": 17}', "invalid_value", "n"),
        (b'{"prompt": "x", "max_tokens": 0}', "invalid_value", "max_tokens"),
        (b'{"prompt": "x", "stop": [1]}', "invalid_value", "stop"),
        (b'{"prompt": "x", "seed": 1e30}', "invalid_value", "seed"),
        (b'{"prompt": "x", "stream_options": {"include_usage": 1}}', "invalid_value", "stream_options.include_usage"),
    ],
)
def test_body_that_makes_no_sense_is_refused_by_the_field_at_fault(raw: bytes, code: str, param: str | None) -> None:
    with pytest.raises(ApiError) as caught:
        parse(CompletionRequest, raw)
    assert (caught.value.status, caught.value.code, caught.value.param) == (400, code, param)
    assert caught.value.body()["error"]["type"] == "invalid_request_error"


def test_fields_nobody_knows_are_accepted() -> None:
    assert completion(user="me", store=True, service_tier="auto").prompt == "x"


@pytest.mark.parametrize(("fields", "param"), [({"prompt_logprobs": 1}, "prompt_logprobs")])
def test_what_chat_does_not_do_is_refused(fields: dict[str, Any], param: str) -> None:
    with pytest.raises(ApiError, match=param) as caught:
        refuse_unsupported(chat(**fields))
    assert (caught.value.status, caught.value.code, caught.value.param) == (400, "unsupported_parameter", param)


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"prompt_logprobs": 1}, "prompt_logprobs"),
        ({"use_beam_search": True}, "use_beam_search"),
    ],
)
def test_what_completions_do_not_do_is_refused(fields: dict[str, Any], param: str) -> None:
    with pytest.raises(ApiError, match=param):
        refuse_unsupported(completion(**fields))


def test_harmless_spellings_of_unsupported_fields_are_accepted() -> None:
    refuse_unsupported(chat(logprobs=False, tools=[]))
    refuse_unsupported(completion(n=2, best_of=2, suffix="", echo=False, logprobs=None, use_beam_search=False))


@pytest.mark.parametrize(("asked", "given"), [(None, 90), (5, 5), (90, 90), (1000, 90)])
def test_answer_ends_where_the_context_does(asked: int | None, given: int) -> None:
    assert made(10, asked)[0].max_tokens == given


def test_prompt_that_leaves_no_room_is_refused() -> None:
    assert made(N_CTX - 1)[0].max_tokens == 1
    with pytest.raises(ApiError, match="maximum context length is 100 tokens, the prompt has 100") as caught:
        made(N_CTX)
    assert (caught.value.status, caught.value.code) == (400, "context_length_exceeded")


def test_empty_prompt_is_refused() -> None:
    with pytest.raises(ApiError, match="empty"):
        made(0)


def test_choices_have_seeds_of_their_own_and_one_prompt() -> None:
    several = made(n=3, seed=-1)
    assert [one.sampling.seed for one in several] == [-1, 0, 1]
    assert len({id(one.prompt) for one in several}) == 1
    assert [one.sampling.seed for one in made(n=2)] == [None, None]


def test_what_is_not_said_is_openais_default() -> None:
    sampling = made()[0].sampling
    assert (sampling.temperature, sampling.top_p, sampling.top_k, sampling.min_p) == (1.0, 1.0, 0, 0.0)
    assert (sampling.repetition_penalty, sampling.presence_penalty, sampling.frequency_penalty) == (1.0, 0.0, 0.0)
    assert (sampling.logit_bias, sampling.min_tokens, sampling.ignore_eos) == ({}, 0, False)


def test_zero_is_said_and_top_k_minus_one_keeps_all() -> None:
    sampling = made(temperature=0, top_k=-1)[0].sampling
    assert (sampling.temperature, sampling.top_k) == (0.0, 0)


@pytest.mark.parametrize("stop", ["a", ["a", "b", "c", "d", "e", "f"]])
def test_stops_are_one_or_any_number(stop: str | list[str]) -> None:
    assert made(stop=stop)[0].stops == tuple(stop)


def test_bias_is_by_token_id() -> None:
    assert made(logit_bias={"5": -100, "999": 1.5})[0].sampling.logit_bias == {5: -100.0, 999: 1.5}


@pytest.mark.parametrize("token", ["x", "-1", "1000", ""])
def test_bias_of_a_token_that_is_not_there_is_refused(token: str) -> None:
    with pytest.raises(ApiError) as caught:
        made(logit_bias={token: 1})
    assert (caught.value.status, caught.value.param) == (400, "logit_bias")


def test_newer_name_of_the_budget_goes_first() -> None:
    assert chat(max_tokens=5).token_budget == 5
    assert chat(max_tokens=5, max_completion_tokens=7).token_budget == 7


@pytest.mark.parametrize(
    ("fields", "n"),
    [({}, None), ({"logprobs": False}, None), ({"logprobs": True}, 0), ({"logprobs": True, "top_logprobs": 5}, 5)],
)
def test_chat_asks_for_logprobs_by_two_fields(fields: dict[str, Any], n: int | None) -> None:
    assert n_logprobs(chat(**fields)) == n


@pytest.mark.parametrize(("fields", "n"), [({}, None), ({"logprobs": 0}, 0), ({"logprobs": 20}, 20)])
def test_completion_asks_for_logprobs_by_one_number(fields: dict[str, Any], n: int | None) -> None:
    assert n_logprobs(completion(**fields)) == n


def test_no_tokens_may_be_asked_for_only_where_the_prompt_is_echoed() -> None:
    assert completion(max_tokens=0, echo=True).max_tokens == 0
    with pytest.raises(ApiError, match="greater than or equal to 1") as caught:
        completion(max_tokens=0, echo=False)
    assert (caught.value.status, caught.value.param) == (400, "max_tokens")


def test_more_answers_are_made_than_are_given() -> None:
    assert len(made(n=2, best_of=5)) == 5
    assert n_best(completion(n=2, best_of=5)) == 2
    assert n_best(completion(n=2, best_of=2)) is None
    assert n_best(completion(n=16)) is None


def test_more_tokens_cannot_be_wanted_than_allowed() -> None:
    assert made(max_tokens=5, min_tokens=5)[0].sampling.min_tokens == 5
    assert made(max_tokens=500, min_tokens=300)[0].max_tokens == 90  # what the context leaves is nobody's fault
    with pytest.raises(ApiError, match="more than 5") as caught:
        made(max_tokens=5, min_tokens=6)
    assert (caught.value.status, caught.value.param) == (400, "min_tokens")


@pytest.mark.parametrize(
    ("fields", "kwargs"),
    [
        ({"reasoning_effort": "none"}, {"reasoning_effort": "none", "enable_thinking": False}),
        ({"reasoning_effort": "low"}, {"reasoning_effort": "low", "enable_thinking": True}),
        ({"reasoning_effort": "low", "enable_thinking": False}, {"reasoning_effort": "low", "enable_thinking": False}),
        ({}, {}),
    ],
)
def test_effort_is_the_templates_to_read(fields: dict[str, Any], kwargs: dict[str, Any]) -> None:
    assert chat(**fields).rendered_kwargs == kwargs
