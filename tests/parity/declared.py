"""The differences from vLLM that are meant, each with its reason; `docs/parity.md` is made of them.

`where`, `vllm`, `worker` and `cases` are patterns as of file names; several are separated by a comma and a blank.
"""

from __future__ import annotations

from typing import Final

from tests.parity.differences import Declared

NOTHING = "null, absent|null"

_VLLMS_OWN = (
    "kv_transfer_params, ec_transfer_params, metrics, prompt_text, prompt_token_ids, prompt_logprobs, service_tier, "
    "choices[].prompt_logprobs, choices[].prompt_token_ids, choices[].routed_experts, choices[].token_ids, "
    "choices[].message.annotations, choices[].message.audio, choices[].message.function_call, "
    "choices[].message.refusal, usage.completion_tokens_details, usage.prompt_tokens_details.multimodal_tokens, "
    "usage.prompt_tokens_details.created_cache_tokens"
)

FIELDS: Final = (
    Declared(
        _VLLMS_OWN,
        NOTHING,
        "absent",
        "vLLM writes null where a feature was not asked for, or is one of its own. Here such a field is left out: a "
        "client that reads it gets the same nothing.",
    ),
    Declared(
        "system_fingerprint",
        "str, absent|str",
        "absent",
        "vLLM's version and settings. Who answered is in the gateway's `x-engine` header.",
    ),
    Declared(
        "usage.prompt_tokens_details.created_cache_tokens",
        "int",
        "absent",
        "How many tokens went into vLLM's cache. Here all of them do.",
    ),
    Declared(
        "choices[].message.reasoning",
        "null",
        "absent",
        "Without a thought there is no field for it.",
    ),
    Declared(
        "choices[].message.reasoning_content, choices[].delta.reasoning_content",
        "absent",
        "str, absent|str",
        "The older spelling of `reasoning`, which clients of the two services read: both are sent.",
    ),
    Declared(
        "choices[].delta.content",
        "*str",
        "absent|str, absent|null|str",
        "The chunk that ends an answer has an empty delta, as OpenAI's has; vLLM's has an empty text.",
    ),
    Declared(
        "choices[].message.content",
        "str",
        "null",
        "A message that only calls has no content, as OpenAI's; vLLM's is empty.",
        cases="chat: one call at a time, chat: required after a thought",
    ),
    Declared(
        "choices[].delta.tool_calls[].function.arguments",
        "absent|str",
        "str",
        "The chunk that names the function has empty arguments, as OpenAI's.",
        cases="chat: *",
    ),
    Declared(
        "choices[].logprobs",
        "object",
        "null|object",
        "The chunk that ends a text has no tokens to rate; vLLM's is one of an empty text.",
        cases="text: *streamed",
    ),
    Declared(
        "data[].permission, data[].root, data[].parent",
        "*",
        "absent",
        "Left-overs of an older API, and a path of the machine that is nobody's business.",
        cases="models: all",
    ),
    Declared(
        "body, status",
        "empty, absent",
        "None, str",
        "`/health` says more than its status: while the model loads, how far it is.",
        cases="models: health",
    ),
)

ERRORS: Final = (
    Declared(
        "error.code",
        "int",
        "str",
        "A word that says what is wrong, as OpenAI's, such as `context_length_exceeded`. vLLM repeats the status.",
    ),
    Declared(
        "error.param",
        "null",
        "str",
        "Names the field at fault where vLLM does not.",
    ),
    Declared(
        "error.param, param",
        "*",
        "null, None",
        "What is wrong is the whole body: no field is at fault.",
        cases="refused: no JSON, refused: an empty body, refused: a list for a body, tokens: of neither text nor chat",
    ),
    Declared(
        "param",
        "*",
        "*",
        "The field as the client wrote it, not a part of vLLM's own types, nor a measure that no request has.",
        cases="*refused: a message without a role, *refused: a negative token, *refused: a prompt over the context*, "
        "*refused: a text over the context, *refused: top_logprobs 1000, "
        "*refused: json_schema without a schema, *refused: tool_choice of no such tool",
    ),
    Declared(
        "detail, error",
        "*",
        "*",
        "One shape for all errors, that of paths and methods nobody knows as well.",
        cases="models: health*posted, refused: an unknown route, refused: a wrong method",
    ),
)

REQUESTS: Final = (
    Declared(
        "status",
        "400",
        "200",
        "`n` answers at temperature 0 are `n` times the same, which is what was asked for.",
        cases="chat: n at temperature 0",
    ),
    Declared(
        "status",
        "400",
        "200",
        "Means nothing here and does no harm; clients send it.",
        cases="chat: stream_options without stream, chat: no tools in the list",
    ),
    Declared(
        "status",
        "400",
        "200",
        "`max_tokens` shrinks to what the context leaves, at whatever height it begins: the contract of the services.",
        cases="chat: refused: max_tokens over the context",
    ),
    Declared(
        "status",
        "200",
        "400",
        "A role that no chat template knows would be left out by most of them, and nobody would notice.",
        cases="chat: refused: an unknown role",
    ),
    Declared(
        "status",
        "200",
        "400",
        "vLLM goes on writing the user's question. Only an assistant's message can be continued.",
        cases="chat: refused: to go on with a question",
    ),
    Declared(
        "status",
        "200",
        "400",
        "A stream is refused before it begins; vLLM sends 200 and then the error.",
        cases="chat: refused: a schema of no type*streamed",
    ),
    Declared(
        "status",
        "200",
        "400",
        "The best of several is known when all are finished: nothing could be streamed before.",
        cases="text: refused: a stream with best_of",
    ),
    Declared(
        "status",
        "404",
        "400",
        "The path is there, for models that embed texts: this one does not, which is said.",
        cases="refused: embeddings*",
    ),
    Declared(
        "status",
        "200",
        "400",
        "A token that does not exist has no text.",
        cases="tokens: too high",
    ),
    Declared(
        "prompt tokens",
        "*",
        "*",
        "The texts of a message in parts are put together as they are. vLLM puts a line end between them.",
        cases="chat: content in parts",
    ),
    Declared(
        "prompt tokens",
        "*",
        "*",
        "Tools are shown to the model as the client wrote them. vLLM adds what it left out, as null.",
        cases="chat: tool_choice named, chat: one call at a time",
    ),
    Declared(
        "completion tokens",
        "1",
        "0",
        "`max_tokens` 0 is taken at its word. vLLM generates a token and does not show it.",
        cases="text: echo of no new token",
    ),
    Declared(
        "completion tokens",
        "4",
        "8",
        "`best_of` is done, and what was generated counts. vLLM takes it and does nothing.",
        cases="text: best_of",
    ),
    Declared(
        "finish, choices[].message.content",
        "*",
        "*",
        "A call of a named function ends with `tool_calls` and leaves no content, as any other call. vLLM says `stop`, "
        "and an empty text.",
        cases="chat: tool_choice named*",
    ),
    Declared(
        "finish, says, calls",
        "*",
        "*",
        "Unless `parallel_tool_calls` is false, calls may follow each other, with line ends between them; the stand-in "
        "does not stop calling. vLLM has a list of calls that ends.",
        cases="chat: tool_choice required*, chat: required with usage, chat: required after a thought",
    ),
    Declared(
        "prompt tokens, count",
        "*",
        "*",
        "An answer that goes on stands behind the same generation prompt as when it was begun, an empty thought "
        "included, so that it goes on as if nothing had happened. vLLM renders it as a past message, without that.",
        cases="chat: an answer that goes on, chat: echo of a begun answer, tokens: of a chat that goes on",
    ),
    Declared(
        "says, choices[].message.content, choices[].message.reasoning, choices[].delta.reasoning, prompt tokens",
        "*",
        "*",
        "A part of `max_tokens` is kept for the answer: a thought is closed in time, and not begun where there is no "
        "room for one. vLLM lets it use up everything, and nothing is answered.",
        cases="chat: thought that does not end*, chat: thinking by default, chat: thinking with little room, "
        "chat: reasoning_effort low, chat: include_reasoning false*",
    ),
)

NOT_DONE: Final = (
    Declared(
        "prompt_logprobs, choices[].prompt_logprobs, choices[].prompt_token_ids",
        "list, list|null",
        "absent",
        "vLLM's own way to the logprobs of a prompt. `echo` with `logprobs` has them in OpenAI's.",
        cases="chat: echo of a begun answer*, text: echo*",
    ),
    Declared(
        "status",
        "200",
        "400",
        "vLLM's own way to the logprobs of a prompt, refused. `echo` with `logprobs` has them in OpenAI's.",
        cases="*: prompt_logprobs",
    ),
    Declared(
        "usage in, usage, usage.prompt_tokens_details",
        "*",
        "*",
        "`continuous_usage_stats` is vLLM's own: usage comes once, at the end.",
        cases="chat: stream with usage all along",
    ),
    Declared(
        "choices[].stop_reason",
        "*",
        "absent",
        "Which stop it was is vLLM's own field; `finish_reason` says that it was one.",
    ),
    Declared(
        "choices[].token_ids, prompt_token_ids",
        "list",
        "absent",
        "`return_token_ids` is taken and not done: texts are given, `/tokenize` gives the ids.",
        cases="chat: token ids",
    ),
)

SECTIONS: Final = {
    "Fields of an answer": FIELDS,
    "Errors": ERRORS,
    "What is asked for": REQUESTS,
    "Not done": NOT_DONE,
}
DECLARED: Final[tuple[Declared, ...]] = tuple(row for rows in SECTIONS.values() for row in rows)
