"""Sends cases over plain sockets, a bounded number at once, and judges what comes back."""

from __future__ import annotations

import asyncio
import json
import random
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final

from tests.hostile.case import Answer, Case, Generator

_MOST_COMPLAINTS: Final = 25
_RESET: Final = (ConnectionError, asyncio.IncompleteReadError)


@dataclass(slots=True)
class Outcome:
    """`statuses`: (kind, status), where status 0 is a connection that was closed without an answer."""

    statuses: Counter[tuple[str, int]] = field(default_factory=Counter)
    complaints: list[str] = field(default_factory=list)
    n_complaints: int = 0

    def complain(self, case: Case, what: str) -> None:
        self.n_complaints += 1
        if len(self.complaints) < _MOST_COMPLAINTS:
            sent = b"".join(part for part in case.parts if isinstance(part, bytes))
            self.complaints.append(f"{case.kind}: {what}\n    sent {sent[:1500]!r}")

    @property
    def n_sent(self) -> int:
        return self.statuses.total()


async def drive(port: int, cases: Iterator[Case], outcome: Outcome, *, concurrency: int, limit_s: float) -> None:
    """Each case may take `limit_s`."""
    async with asyncio.TaskGroup() as clients:
        for _ in range(concurrency):
            clients.create_task(Client(port, outcome, limit_s).run(cases))


class Client:
    """One after the other, on one connection for as long as it lasts."""

    def __init__(self, port: int, outcome: Outcome, limit_s: float) -> None:
        self._port = port
        self._limit_s = limit_s
        self._outcome = outcome
        self._reader: asyncio.StreamReader | None = None
        self._writer: asyncio.StreamWriter | None = None

    async def run(self, cases: Iterator[Case]) -> None:
        for case in cases:
            try:
                async with asyncio.timeout(self._limit_s):
                    await self._send(case)
            except TimeoutError:
                self._outcome.statuses[case.kind, 0] += 1
                self._outcome.complain(case, f"nothing happened for {self._limit_s:g} s")
                self._leave()
        self._leave()

    async def _send(self, case: Case) -> None:
        if case.n_answers > 1:
            # aiohttp 3.14 counts a request whose body came after its head among those that wait, for as long as the
            # connection lasts: of 32 at once, which is the most it reads ahead, the last would not be seen.
            self._leave()
        if self._writer is None or self._writer.is_closing() or (self._reader is not None and self._reader.at_eof()):
            self._leave()
            self._reader, self._writer = await asyncio.open_connection("127.0.0.1", self._port, limit=1 << 24)
        reader, writer = self._reader, self._writer
        assert reader is not None
        sending = asyncio.create_task(_send_parts(writer, case))
        try:
            if case.after == "cut":
                await sending
                self._outcome.statuses[case.kind, -1] += 1
                self._leave()
                return
            answers, is_open = await _answers(reader, case)
        finally:
            sending.cancel()
            await asyncio.gather(sending, return_exceptions=True)
        self._judge(case, answers)
        if not is_open or case.after != "read" or case.statuses != frozenset((200,)):
            self._leave()

    def _leave(self) -> None:
        if self._writer is not None:
            self._writer.transport.abort()
            self._writer = self._reader = None

    def _judge(self, case: Case, answers: list[Answer]) -> None:
        for answer in answers:
            self._outcome.statuses[case.kind, answer.status] += 1
            if complaint := _complaint(case, answer):
                self._outcome.complain(case, complaint)
        if len(answers) < case.n_answers:
            self._outcome.statuses[case.kind, 0] += 1
            if not case.may_close:
                self._outcome.complain(case, f"{len(answers)} answers instead of {case.n_answers}")


async def _send_parts(writer: asyncio.StreamWriter, case: Case) -> None:
    try:
        for part in case.parts:
            if isinstance(part, bytes):
                writer.write(part)
                await writer.drain()
            else:
                await asyncio.sleep(part)
        if case.after == "half_close" and writer.can_write_eof():
            writer.write_eof()
    except ConnectionError:
        pass


async def _answers(reader: asyncio.StreamReader, case: Case) -> tuple[list[Answer], bool]:
    """What came, and whether the connection can be used again."""
    answers: list[Answer] = []
    is_open = True
    try:
        while is_open and len(answers) < case.n_answers:
            answer, is_open = await _answer(reader, has_body=case.has_body)
            if answer.status != 100:
                answers.append(answer)
    except _RESET:
        is_open = False
    return answers, is_open


async def _answer(reader: asyncio.StreamReader, *, has_body: bool) -> tuple[Answer, bool]:
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
    version, status = head[0].split()[:2]
    headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in head[1:] if line)}
    stays = version == "HTTP/1.1" and headers.get("connection") != "close"
    if status == "100" or not has_body:
        return Answer(int(status), headers, b""), stays
    if headers.get("transfer-encoding") == "chunked":
        return Answer(int(status), headers, await _chunks(reader)), stays
    if (length := headers.get("content-length")) is not None:
        return Answer(int(status), headers, await reader.readexactly(int(length))), stays
    return Answer(int(status), headers, await reader.read()), False


async def _chunks(reader: asyncio.StreamReader) -> bytes:
    parts = []
    while (size := int(await reader.readuntil(b"\r\n"), 16)) > 0:
        parts.append(await reader.readexactly(size))
        await reader.readexactly(2)
    await reader.readexactly(2)
    return b"".join(parts)


def _complaint(case: Case, answer: Answer) -> str | None:
    if answer.status >= 500 and not _is_lost_grammar(answer):
        return f"answered {answer.status}: {answer.body[:200]!r}"
    if case.statuses and answer.status not in case.statuses and answer.status < 500:
        return f"answered {answer.status} instead of one of {sorted(case.statuses)}: {answer.body[:200]!r}"
    if answer.status >= 400 and case.has_body and not _is_from_aiohttp(answer):
        try:
            error = json.loads(answer.body)["error"]
            if not error["message"] or not error["code"]:
                return f"a {answer.status} without message or code"
        except (ValueError, KeyError, TypeError):
            return f"a {answer.status} that has not the shape of an error: {answer.body[:200]!r}"
    if answer.is_stream and not answer.body.endswith(b"data: [DONE]\n\n"):
        return "a stream without its end"
    return case.check(answer)


def _is_lost_grammar(answer: Answer) -> bool:
    """The worker's 500 for a grammar that it cannot follow to its end; the gateway makes a 400 of it."""
    return "aiohttp" in answer.headers.get("server", "") and b'"message":"the grammar ' in answer.body


def _is_from_aiohttp(answer: Answer) -> bool:
    """The worker leaves to it what is no HTTP; the gateway does not."""
    return "aiohttp" in answer.headers.get("server", "") and answer.status in (400, 417)


def mixed(n: int, dice: random.Random, choices: list[tuple[float, tuple[Generator, ...]]]) -> Iterator[Case]:
    """`n` cases, each from one of the groups of generators, which are drawn by weight."""
    weights = [weight for weight, _ in choices]
    for _ in range(n):
        (group,) = dice.choices([group for _, group in choices], weights)
        yield dice.choice(group)(dice)
