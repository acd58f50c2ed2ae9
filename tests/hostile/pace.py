"""Clients that are slow, that leave in the middle, and that do not listen."""

from __future__ import annotations

import json
import random
from typing import Final

from tests.hostile.case import CHAT, Case, Generator, chat_body, post_json, request

_SLOW: Final = frozenset((408,))
_REST_S: Final = 2.5


def slow_headers(dice: random.Random) -> Case:
    sent = request("GET", "/health")
    cut = dice.randrange(1, len(sent) - 2)
    return Case("slow headers", (sent[:cut], _REST_S), _SLOW, may_close=True)


def slow_body(dice: random.Random) -> Case:
    sent = post_json(CHAT, chat_body())
    return Case("slow body", (sent[: -dice.randrange(1, 20)], _REST_S), _SLOW)


def byte_by_byte(dice: random.Random) -> Case:
    sent = post_json(CHAT, chat_body())
    return Case("byte by byte", tuple(sent[i : i + 1] for i in range(len(sent))), frozenset((200,)))


def cut_request(dice: random.Random) -> Case:
    sent = post_json(CHAT, chat_body())
    return Case("cut request", (sent[: dice.randrange(len(sent))],), after="cut", may_close=True)


def cut_answer(dice: random.Random) -> Case:
    body = chat_body(stream=dice.random() < 0.7, max_tokens=dice.choice((1, 64)))
    pause = dice.choice((0.0, 0.0, 0.002, 0.02))
    return Case("cut answer", (post_json(CHAT, body), pause), after="cut", may_close=True)


def half_closed(dice: random.Random) -> Case:
    return Case("half closed", (post_json(CHAT, chat_body()),), frozenset((200,)), after="half_close", may_close=True)


def half_closed_early(dice: random.Random) -> Case:
    sent = post_json(CHAT, chat_body())
    return Case("half closed", (sent[: dice.randrange(len(sent))],), after="half_close", may_close=True)


def announced(dice: random.Random) -> Case:
    """A body that was announced and never comes, to a path that wants none, or without a key."""
    where, key = dice.choice((("/nowhere", "x"), (CHAT, "x"), ("/health", "x")))
    sent = request("POST", where, json.dumps(chat_body()).encode(), key=key)
    return Case("announced", (sent[:-30],), frozenset((401, 404, 405)))


def unread(dice: random.Random) -> Case:
    """A stream, and nobody who reads it."""
    return Case("unread", (post_json(CHAT, chat_body(stream=True)) * 3, 0.05), after="cut", may_close=True)


QUICK: Final[tuple[Generator, ...]] = (
    byte_by_byte,
    cut_request,
    cut_answer,
    cut_answer,
    half_closed,
    half_closed_early,
    unread,
)
SLOW: Final[tuple[Generator, ...]] = (slow_headers, slow_body, announced)
