"""Chats: messages, sampling, ends, thinking, usage."""

from __future__ import annotations

from tests.parity.case import CAPITAL, Case, Json, both, chat, user

LINES = "Người Việt ở Huế uống trà sen. 你好，世界。"
THINK = {"enable_thinking": True}
SYSTEM = {"role": "system", "content": "You answer in one word."}
GREETED = {"role": "assistant", "content": "Hello! How can I help you today?"}
BEGUN = {"role": "assistant", "content": "The capital of France is"}
USAGE = {"include_usage": True}
LONG: Json = {"max_tokens": 32, "ignore_eos": True}
GO_ON: Json = {"add_generation_prompt": False, "continue_final_message": True}


def part(text: str) -> Json:
    return {"type": "text", "text": text}


MESSAGES = [
    *both(chat("a question", max_tokens=24, checks={"says Paris": lambda text: "Paris" in text})),
    chat("a system message", SYSTEM, user(CAPITAL)),
    chat("several turns", user("Hello"), GREETED, user(CAPITAL)),
    chat("content in parts", user([part("What is the capital"), part("of France?")])),
    chat("Vietnamese and Chinese", user(LINES)),
    chat("the role developer", {"role": "developer", "content": "You answer in one word."}, user(CAPITAL)),
    chat("a name in a message", {**user(CAPITAL), "name": "Lan"}),
    chat("no model", without=("model",)),
    chat("fields that mean nothing here", user="lan", store=False, metadata={"a": "b"}, service_tier="auto"),
    chat("fields that nobody knows", colour="blue"),
    chat("nulls", stop=None, top_p=1, seed=None, tools=None, response_format=None, logit_bias=None),
    chat("request_id", request_id="of-the-client"),
    *both(
        chat("an answer that goes on", user(CAPITAL), BEGUN, **GO_ON, max_tokens=6),
        chat("echo of a begun answer", user(CAPITAL), BEGUN, **GO_ON, max_tokens=6, echo=True),
    ),
    chat("no generation prompt", add_generation_prompt=False),
]  # fmt: skip

SAMPLING = [
    chat("seed", seed=7, temperature=1, ignore_eos=True),
    chat("top_p, top_k and min_p", temperature=0.8, top_p=0.9, top_k=20, min_p=0.05, seed=1, ignore_eos=True),
    chat("top_k -1", top_k=-1),
    chat("penalties", presence_penalty=0.5, frequency_penalty=0.5, repetition_penalty=1.1),
    chat("temperature 2", temperature=2, seed=3, ignore_eos=True),
    chat("logit_bias", logit_bias={"260": -100}),
    chat("allowed_token_ids", allowed_token_ids=[260, 28, 30], max_tokens=3, checks={
        "says nothing else": lambda text: text.replace(" the", "").strip(".,") == ""}),
    chat("bad_words", bad_words=["Paris"], checks={"does not say Paris": lambda text: "Paris" not in text}),
    *both(chat("n", n=2, temperature=1, ignore_eos=True)),
    chat("n with a seed", n=2, seed=5, temperature=1, ignore_eos=True),
    chat("n at temperature 0", n=2),
]  # fmt: skip

ENDS = [
    chat("max_tokens", max_tokens=1),
    chat("max_completion_tokens", without=("max_tokens",), max_completion_tokens=2),
    *both(chat("stop", stop="Paris", max_tokens=24, checks={"does not say Paris": lambda text: "Paris" not in text})),
    chat("several stops", stop=["Berlin", " of"], max_tokens=24),
    *both(
        chat(
            "stop that is shown",
            stop=["Paris"],
            include_stop_str_in_output=True,
            max_tokens=24,
            checks={"ends with Paris": lambda text: text.endswith("Paris")},
        )
    ),
    chat("stop_token_ids", stop_token_ids=[282], max_tokens=24),
    chat("ignore_eos", ignore_eos=True, max_tokens=14),
    chat("min_tokens", min_tokens=14, max_tokens=14),
    chat("the context's end", user(" cat" * 484), max_tokens=100, ignore_eos=True),
]

THINKING = [
    *both(chat("thought that does not end", chat_template_kwargs=THINK, **LONG)),
    chat("thinking by default", without=("chat_template_kwargs",), **LONG),
    chat("thinking with little room", chat_template_kwargs=THINK, max_tokens=6),
    chat("no thinking", max_tokens=12),
    chat("reasoning_effort none", without=("chat_template_kwargs",), reasoning_effort="none"),
    chat("reasoning_effort low", without=("chat_template_kwargs",), reasoning_effort="low", **LONG),
    *both(chat("thinking_token_budget", chat_template_kwargs=THINK, thinking_token_budget=4, **LONG)),
    *both(chat("include_reasoning false", chat_template_kwargs=THINK, include_reasoning=False, **LONG)),
    chat("a thought fed back", user("Hello"), {**GREETED, "reasoning": "They greet me."}, user(CAPITAL)),
]

USAGES = [
    chat("stream without usage", stream=True),
    chat("stream with usage", stream=True, stream_options=USAGE),
    chat("stream with usage all along", stream=True, stream_options={**USAGE, "continuous_usage_stats": True}),
    chat("stream of two with usage", stream=True, stream_options=USAGE, n=2, temperature=1, ignore_eos=True),
    chat("stream_options without stream", stream_options=USAGE),
]

LOGPROBS = [
    *both(
        chat("logprobs", logprobs=True, max_tokens=3),
        chat("top_logprobs", logprobs=True, top_logprobs=3, max_tokens=3),
    ),
    chat("top_logprobs 0", logprobs=True, top_logprobs=0, max_tokens=3),
    chat("logprobs false", logprobs=False, max_tokens=3),
    chat("logprobs of two", logprobs=True, n=2, temperature=1, ignore_eos=True, max_tokens=3),
    chat("token ids", return_token_ids=True, max_tokens=3),
    chat("tokens as token ids", logprobs=True, return_tokens_as_token_ids=True, max_tokens=3),
    chat("prompt_logprobs", prompt_logprobs=1, max_tokens=3),
]

CASES: list[Case] = [*MESSAGES, *SAMPLING, *ENDS, *THINKING, *USAGES, *LOGPROBS]
