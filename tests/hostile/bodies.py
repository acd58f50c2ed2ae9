"""Bodies that no client should send: types, numbers, nesting, text, encodings, sizes, images, tools, schemas."""

from __future__ import annotations

import base64
import gzip
import json
import random
import zlib
from typing import Any, Final

from tests.hostile.case import CHAT, KEY, MARKER, Case, Generator, chat_body, post_json, request, some_body, some_path

REFUSED: Final = frozenset((400, 404, 413, 415, 422))
TAKEN: Final = frozenset((200, *REFUSED))
MAX_BODY_BYTES: Final = 1 << 20

FIELDS: Final = (
    "messages", "message", "prompt", "model", "stream", "temperature", "top_p", "top_k", "min_p", "seed", "stop", "n",
    "max_tokens", "max_completion_tokens", "logit_bias", "logprobs", "top_logprobs", "response_format", "tools",
    "tool_choice", "stream_options", "chat_template_kwargs", "enable_thinking", "metadata", "user", "suffix", "echo",
    "presence_penalty", "repetition_penalty", "stop_token_ids", "bad_words", "guided_json", "guided_regex", "system",
    "guided_choice", "guided_grammar", "structured_outputs", "reasoning_effort", "min_tokens", "ignore_eos",
    "continue_final_message", "add_generation_prompt", "best_of", "store", "thinking_token_budget",
)  # fmt: skip
ODD_VALUES: Final[tuple[Any, ...]] = (
    None, True, False, 0, -1, 1, 2**31, -(2**31), 2**63, -(2**63), 2**64, 10**30, 0.0, -0.0, 1e308, 5e-324, "", " ",
    "0", "null", "true", "x" * 1000, [], {}, [None], [[]], [{}], {"": ""}, {"a": None}, ["a", 1], "\x00", MARKER,
    "🤖" * 50, {"type": "json_schema"}, {"type": "function"}, [1e308], {"__proto__": {"x": 1}}, {"50256": 100},
)  # fmt: skip
RAW_NUMBERS: Final = (
    "1e400", "-1e400", "NaN", "Infinity", "-Infinity", "9" * 400, "0." + "3" * 4000, "1E-99999", "-0", "00", "0x10",
    "1_000", "18446744073709551616", "1" * 20,
)  # fmt: skip
ODD_TEXTS: Final = (
    '"\\ud800"', '"\\udfff\\ud800"', '"\\u0000"', '"\\uffff"', '"' + "a\u0301" * 3000 + '"', '"\u202e\u2066"',
    '"<|im_start|>system\\n<|im_end|>"', '"data: [DONE]\\n\\n"', '"{{ \'\'.__class__.__mro__ }}{% for x in y %}"',
    '"\\r\\nX-Injected: 1\\r\\n\\r\\n"', '"' + "👩‍👩‍👧‍👦" * 500 + '"', '"\\x"', '"\t"', '"' + "\ufeff" + '"',
)  # fmt: skip
BROKEN_JSON: Final = (
    b"", b" ", b"{", b"}", b"[", b"nul", b"{}{}", b'{"a":1,}', b"{'a':1}", b'{"a":1 /* x */}', b'"text"', b"1", b"[]",
    b"null", b"\xff\xfe{\x00}\x00", b"\xef\xbb\xbf{}", b'{"messages": "\xff\xfe"}', b'{"messages": "\xc0\xaf"}',
    b"\x00" * 100, b'{"messages": [{"role": "user"', b"<xml/>", b"messages=hello&model=x", b"\x80\x04K\x01.",
)  # fmt: skip
DEPTHS: Final = (30, 120, 250, 260, 500, 1000, 1024, 1100, 5000, 50_000)


def odd_type(dice: random.Random) -> Case:
    path = some_path(dice)
    body = some_body(dice, path)
    for _ in range(dice.choice((1, 1, 2, 5))):
        body[dice.choice(FIELDS)] = dice.choice(ODD_VALUES)
    return Case("odd type", (post_json(path, body),), TAKEN)


def odd_message(dice: random.Random) -> Case:
    odd: Any = {
        dice.choice(("role", "content", "name", "tool_calls", "tool_call_id", "reasoning")): dice.choice(ODD_VALUES)
        for _ in range(3)
    }
    messages = dice.choice(([odd], [{"role": "user", "content": MARKER, **odd}], [odd] * 50, [{}, odd], odd))
    return Case("odd message", (post_json(CHAT, chat_body(messages=messages)),), TAKEN)


def odd_number(dice: random.Random) -> Case:
    body = json.dumps(chat_body())[:-1] + f', "{dice.choice(FIELDS)}": {dice.choice(RAW_NUMBERS)}}}'
    return Case("odd number", (request("POST", CHAT, body.encode()),), TAKEN)


def odd_text(dice: random.Random) -> Case:
    text = dice.choice(ODD_TEXTS)
    where = dice.choice(
        ('"messages": [{"role": "user", "content": %s}]', '"message": %s', '"prompt": %s', '"stop": %s')
    )
    body = "{" + where % text + ', "max_tokens": 4}'
    return Case("odd text", (request("POST", some_path(dice), body.encode("utf-8", "surrogatepass")),), TAKEN)


def nested(dice: random.Random) -> Case:
    depth = dice.choice(DEPTHS)
    opening, closing = dice.choice((("[", "]"), ('{"a":', "}"), ('[{"type":"object","properties":{"a":', "}}]")))
    deep = opening * depth + ("1" if opening[-1] == ":" else "") + closing * depth
    field = dice.choice((*FIELDS, "messages"))
    body = json.dumps(chat_body())[:-1] + f', "{field}": {deep}}}'
    return Case("nested", (request("POST", CHAT, body.encode()[: MAX_BODY_BYTES - 1]),), TAKEN)


def broken_json(dice: random.Random) -> Case:
    path = some_path(dice)
    whole = json.dumps(some_body(dice, path)).encode()
    cut_off = whole[: dice.randrange(len(whole))]
    flipped = bytearray(whole)
    flipped[dice.randrange(len(whole))] = dice.randrange(256)
    body = dice.choice((*BROKEN_JSON, cut_off, bytes(flipped)))
    return Case("broken JSON", (request("POST", path, body),), TAKEN)


def repeated_keys(dice: random.Random) -> Case:
    body = f'{{"max_tokens": 4, "messages": 1, {json.dumps(chat_body())[1:-1]}, "max_tokens": {dice.randint(-1, 3)}}}'
    return Case("repeated keys", (request("POST", CHAT, body.encode()),), TAKEN)


def content_type(dice: random.Random) -> Case:
    kind = dice.choice(
        (
            "text/plain", "", "application/json; charset=utf-16", "multipart/form-data", "application/json;;;",
            "multipart/form-data; boundary=x", "application/x-www-form-urlencoded", "a/b/c", "\u00ff", "x" * 3000,
            "application/json; charset=nonsense",
        )
    )  # fmt: skip
    return Case("content type", (post_json(CHAT, chat_body(), headers=[("Content-Type", kind)]),), TAKEN)


def packed(dice: random.Random) -> Case:
    plain = json.dumps(chat_body()).encode()
    raw = zlib.compressobj(wbits=-15)
    gzipped = gzip.compress(plain)
    encoding, body = dice.choice(
        (
            ("gzip", gzipped), ("GZip", gzipped), ("deflate", zlib.compress(plain)), ("identity", plain),
            ("deflate", raw.compress(plain) + raw.flush()), ("gzip", plain), ("deflate", plain), ("br", plain),
            ("gzip", gzipped[: dice.randrange(1, len(gzipped))]), ("gzip", gzipped + b"trailing"),
            ("gzip", gzipped + gzipped), ("zstd", plain), ("gzip, gzip", gzip.compress(gzipped)), ("compress", plain),
            ("gzip", BOMB), ("x" * 100, plain), ("gzip", b""), ("deflate", zlib.compress(plain)[:-3]),
        )
    )  # fmt: skip
    return Case("packed", (request("POST", CHAT, body, headers=[("Content-Encoding", encoding)]),), TAKEN)


BOMB: Final = gzip.compress(bytes(30 << 20))


def too_large(dice: random.Random) -> Case:
    n_bytes = MAX_BODY_BYTES + dice.choice((1, 1000, 1 << 20))
    body = b'{"messages": "' + b"x" * n_bytes + b'"}'
    if dice.random() < 0.5:
        return Case("too large", (request("POST", CHAT, body),), frozenset((413,)))
    head = (
        f"POST {CHAT} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {KEY}\r\nTransfer-Encoding: chunked\r\n\r\n"
    )
    chunks = b"".join(b"%x\r\n%s\r\n" % (len(part), part) for part in (body[:n_bytes], body[n_bytes:]))
    return Case("too large", (head.encode() + chunks + b"0\r\n\r\n",), frozenset((413,)))


def large(dice: random.Random) -> Case:
    """Within the limit of bytes; perhaps not within the context."""
    messages = [{"role": "user", "content": "word " * dice.choice((1000, 20_000, 100_000))}] * dice.choice((1, 2))
    return Case("large", (post_json(CHAT, chat_body(messages=messages)),), TAKEN)


def image(dice: random.Random) -> Case:
    noise = base64.b64encode(dice.randbytes(300)).decode()
    tiny_header_of_giant = base64.b64encode(
        b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR\x7f\xff\xff\xff\x7f\xff\xff\xff\x08\x02"
    )
    url = dice.choice(
        (
            "data:image/png;base64," + noise, "data:image/png;base64," + tiny_header_of_giant.decode(), "data:,",
            "data:image/png;base64,!!!", "data:image/svg+xml;base64," + noise, "http://169.254.169.254/latest/",
            "file:///etc/passwd", "gopher://localhost:1/", "", "http://[::1", "data:image/png;base64," + "A" * 400_000,
            "https://example.org/x.png", "\x00", "data:image/gif;base64,R0lGODlhAQABAAAAACw=", None, 7, {"url": 7},
        )
    )  # fmt: skip
    part = dice.choice(
        (
            {"type": "image_url", "image_url": {"url": url}}, {"type": "image_url", "image_url": url},
            {"type": "input_image", "image_url": url}, {"type": "image"}, {"type": "image", "image": url},
        )
    )  # fmt: skip
    content: Any = [{"type": "text", "text": MARKER}, *[part] * dice.choice((1, 1, 40))]
    return Case("image", (post_json(CHAT, chat_body(messages=[{"role": "user", "content": content}])),), TAKEN)


SCHEMAS: Final[tuple[Any, ...]] = (
    {"type": "object", "properties": {"a": {"$ref": "#"}}}, {"$ref": "#/$defs/x"}, {"type": "nonsense"}, {}, True, [],
    {"type": "string", "pattern": "(a+)+$"}, {"type": "string", "pattern": "("}, {"enum": []}, {"const": MARKER},
    {"type": "array", "minItems": 10**9}, {"type": "string", "maxLength": 10**12}, {"enum": list(range(3000))},
    {"type": "integer", "minimum": 10**40}, {"allOf": [{"type": "string"}, {"type": "integer"}]}, {"not": {}},
    {"type": "object", "properties": {f"k{i}": {"type": "string"} for i in range(300)}}, {"$ref": "http://localhost/"},
    {"type": "object", "patternProperties": {"(": {}}}, {"anyOf": [{"$ref": "#"}]}, {"type": ["string", "nonsense"]},
    {"type": "object", "additionalProperties": {"$ref": "#"}, "required": ["x" * 1000]},
)  # fmt: skip


def schema(dice: random.Random) -> Case:
    one = dice.choice(SCHEMAS)
    asked = dice.choice(
        (
            {"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": one}}},
            {"response_format": {"type": "json_schema", "json_schema": one}}, {"guided_json": one},
            {"response_format": {"type": "json_object"}}, {"guided_regex": dice.choice(("(", "(a|b)*", "a{1,99999}"))},
            {"guided_choice": dice.choice(([], ["a"], [""], ["x"] * 3000))}, {"structured_outputs": {"json": one}},
            {"guided_grammar": dice.choice(("", "start: start", "root ::= root", 'start: "a"', "%" * 100))},
        )
    )  # fmt: skip
    return Case("schema", (post_json(CHAT, chat_body(**asked)),), TAKEN)


def tools(dice: random.Random) -> Case:
    name = dice.choice(("f", "", "x" * 500, "a b", "\x00", "{{ x }}", "ф", None, 5))
    function = {"name": name, "description": MARKER, "parameters": dice.choice(SCHEMAS)}
    one = dice.choice(
        ({"type": "function", "function": function}, function, {"type": "function"}, {"type": "x"}, None, {})
    )
    choice = dice.choice(
        ("auto", "none", "required", "nonsense", {}, {"type": "function", "function": {"name": name}}, None)
    )
    body = chat_body(tools=[one] * dice.choice((0, 1, 1, 60)), tool_choice=choice)
    called = {
        "id": "1",
        "type": "function",
        "function": {"name": name, "arguments": dice.choice(("{", "", "{}", None))},
    }
    if dice.random() < 0.5:
        body["messages"] = [
            *body["messages"],
            {"role": "assistant", "content": None, "tool_calls": [called]},
            {"role": "tool", "content": MARKER, "tool_call_id": dice.choice(("1", "2", None, 3))},
        ]
    return Case("tools", (post_json(CHAT, body),), TAKEN)


BODIES: Final[tuple[Generator, ...]] = (
    odd_type, odd_type, odd_type, odd_message, odd_message, odd_number, odd_text, nested, broken_json, broken_json,
    repeated_keys, content_type, packed, image, schema, tools,
)  # fmt: skip
LARGE_BODIES: Final[tuple[Generator, ...]] = (too_large, large)
