"""vLLM prints pieces of what it is asked where something is wrong with it: what the program shows of that is none."""

from __future__ import annotations

import json

from tests.e2e.program import until
from tests.marked import HEADERS, RAW_BODIES, chat, posts, told
from tests.vllm.chains import Chain


def test_nothing_of_a_request_is_printed_or_shown(chain: Chain) -> None:
    client, program = chain.client, chain.program
    for path, body in posts():
        client.post(path, body)
    for raw in RAW_BODIES:
        client.post("/v1/chat/completions", raw=raw)
    for headers in HEADERS[4:6]:
        client.post("/v1/chat/completions", chat(), headers=headers)
    client.get("/health", headers={"x-request-id": "the-last-one"})
    until(lambda: "the-last-one" in program.printed(), what="the last line of the log")
    assert not told(program.printed())
    assert not told(json.dumps(chain.status()))
