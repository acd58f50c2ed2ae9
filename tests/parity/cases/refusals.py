"""What is refused, and what looks as if it were."""

from __future__ import annotations

from tests.parity.case import CAPITAL, CHAT, TEXT, Case, Json, both, chat, text, user
from tests.parity.cases.calls import CLOCK, FED_BACK
from tests.parity.cases.structured import json_schema

PIXEL = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAAAAAA6fptVAAAACklEQVR4nGNgAAAAAgABSK+kcQAAAABJRU5ErkJggg=="
IMAGE: Json = {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{PIXEL}"}}
LONG = " cat" * 600
NO_TOOL: Json = {"type": "function", "function": {"name": "nothing"}}
SEARCH: Json = {"type": "web_search"}

VALUES = [
    chat("refused: temperature -1", temperature=-1),
    chat("refused: temperature 3", temperature=3),
    chat("refused: top_p 2", top_p=2),
    chat("refused: top_p 0", top_p=0),
    chat("refused: top_k -2", top_k=-2),
    chat("refused: min_p 2", min_p=2),
    chat("refused: presence_penalty 3", presence_penalty=3),
    chat("refused: repetition_penalty 0", repetition_penalty=0),
    chat("refused: max_tokens 0", max_tokens=0),
    chat("refused: max_tokens over the context", max_tokens=100_000),
    chat("refused: min_tokens over max_tokens", min_tokens=9, max_tokens=3),
    chat("refused: n 0", n=0),
    chat("refused: empty stop", stop=""),
    chat("refused: logit_bias of no token", logit_bias={"99999999": 1}),
    chat("refused: logit_bias of a word", logit_bias={"Paris": 1}),
    chat("refused: allowed_token_ids of no token", allowed_token_ids=[99999999]),
    chat("refused: allowed_token_ids of none", allowed_token_ids=[]),
    chat("refused: top_logprobs without logprobs", top_logprobs=2),
    chat("refused: top_logprobs 1000", logprobs=True, top_logprobs=1000),
    chat("refused: thinking_token_budget -5", thinking_token_budget=-5),
    text("refused: logprobs 1000", "Hello", logprobs=1000),
    text("refused: logprobs -3", "Hello", logprobs=-3),
]

SHAPES = [
    Case("refused: no JSON", CHAT, b'{"messages": ['),
    Case("refused: an empty body", CHAT, b""),
    Case("refused: a list for a body", CHAT, b"[]"),
    Case("refused: no messages", CHAT, {"model": "thinker"}),
    Case("refused: no prompt", TEXT, {"model": "thinker"}),
    chat("refused: max_tokens is a word", max_tokens="many"),
    chat("refused: messages is a text", messages=CAPITAL),
    chat("refused: a message without a role", {"content": CAPITAL}),
    chat("refused: empty messages", messages=[]),
    chat("refused: an unknown role", {"role": "wizard", "content": CAPITAL}),
    chat("refused: stream is a word", stream="perhaps"),
    text("refused: an empty prompt", ""),
    text("refused: no prompt in the list", []),
    text("refused: a token beyond the vocabulary", [10**8]),
    text("refused: a negative token", [-5]),
]

MEANINGS = [
    *both(
        chat("refused: an unknown model", model="nope"),
        chat("refused: a prompt over the context", user(LONG)),
        chat("refused: a schema of no type", response_format=json_schema({"type": "no such type"})),
    ),
    text("refused: a text over the context", LONG),
    text("refused: an unknown model", "Hello", model="nope"),
    chat("refused: an image", user([{"type": "text", "text": "What is this?"}, IMAGE])),
    chat("refused: a part of unknown type", user([{"type": "smell", "smell": "roses"}])),
    chat("refused: json_schema without a schema", response_format={"type": "json_schema"}),
    chat("refused: an unknown response_format", response_format={"type": "yaml"}),
    chat("refused: a bad expression", structured_outputs={"regex": "(["}),
    chat("refused: a bad grammar", structured_outputs={"grammar": "root ::= ("}),
    chat("refused: an empty choice", structured_outputs={"choice": []}),
    chat("refused: two constraints", structured_outputs={"regex": "a", "choice": ["a"]}),
    chat("refused: tool_choice of no such tool", tools=[CLOCK], tool_choice=NO_TOOL),
    chat("refused: required without tools", tool_choice="required"),
    chat("refused: an unknown tool_choice", tools=[CLOCK], tool_choice="sometimes"),
    chat("refused: a tool that is no function", tools=[SEARCH]),
    chat("refused: a tool without a name", tools=[{"type": "function", "function": {}}]),
    chat("refused: continue and generation prompt", user("Hi"), {"role": "assistant", "content": "It"},
         continue_final_message=True, add_generation_prompt=True),
    chat("refused: to go on with a question", add_generation_prompt=False, continue_final_message=True),
    chat("refused: a result without its call", FED_BACK[0], FED_BACK[2]),
    text("refused: a stream with best_of", "Hello", best_of=2, stream=True),
]  # fmt: skip

PLACES = [
    Case("refused: an unknown route", "/v1/nothing", method="GET"),
    Case("refused: a wrong method", CHAT, method="GET"),
    Case("refused: embeddings of a model that has none", "/v1/embeddings", {"model": "thinker", "input": "Hello"}),
]

CASES: list[Case] = [*VALUES, *SHAPES, *MEANINGS, *PLACES]
