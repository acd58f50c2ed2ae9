"""From messages to the text a model was trained on, by the template in its GGUF.

The rendering itself happens in `template_process`; here is its client, and what makes a user's text safe in a prompt:
a text that spells a control token (`<|im_end|>`) is replaced by a mark before rendering and put back as plain text when
the prompt is tokenised, so that nobody ends their own turn and speaks for the system.
"""

from __future__ import annotations

import asyncio
import re
import secrets
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Final

import orjson

RENDER_TIMEOUT_S: Final = 5.0
_PIPE_LIMIT_BYTES: Final = 256 << 20


class TemplateError(Exception):
    """The template is missing, broken, too slow, or refused these messages; the message is for the caller."""


class TemplateRenderer:
    """Owns the process that renders one template; a render that takes too long costs it its life.

    Renders one request after another. `close` ends the process.
    """

    def __init__(self, template: str, template_globals: dict[str, str], *, timeout_s: float = RENDER_TIMEOUT_S) -> None:
        self._first_line = orjson.dumps({"template": template, "globals": template_globals}) + b"\n"
        self._timeout_s = timeout_s
        self._process: asyncio.subprocess.Process | None = None
        self._lock = asyncio.Lock()

    async def render(self, variables: dict[str, Any]) -> str:
        """Raises `TemplateError`. Cancelling it ends the process, which is started anew for the next request."""
        try:
            line = orjson.dumps(variables) + b"\n"
        except orjson.JSONEncodeError as error:
            raise TemplateError(f"the chat template cannot be given these messages: {error}") from error
        async with self._lock:
            try:
                async with asyncio.timeout(self._timeout_s):
                    reply = await self._ask(line)
            except TimeoutError:
                await self._kill()
                raise TemplateError(f"the chat template took longer than {self._timeout_s:g} s") from None
            except asyncio.CancelledError:
                await self._kill()
                raise
            except (ConnectionError, EOFError):
                await self._kill()
                raise TemplateError("the chat template used more than it may and was stopped") from None
        if "error" in reply:
            raise TemplateError(f"the chat template refused: {reply['error']}")
        return str(reply["text"])

    async def start(self) -> None:
        """Have the process ready before the first request needs it."""
        async with self._lock:
            await self._running()

    async def close(self) -> None:
        async with self._lock:
            await self._kill()

    async def _ask(self, line: bytes) -> dict[str, Any]:
        process = await self._running()
        if process.stdin is None or process.stdout is None:
            raise EOFError
        process.stdin.write(line)
        await process.stdin.drain()
        reply = await process.stdout.readline()
        if not reply.endswith(b"\n"):
            raise EOFError
        try:
            parsed: dict[str, Any] = orjson.loads(reply)
        except orjson.JSONDecodeError as error:  # half a surrogate pair
            raise TemplateError("the chat template made something that is no text") from error
        return parsed

    async def _running(self) -> asyncio.subprocess.Process:
        if self._process is None or self._process.returncode is not None:
            self._process = await asyncio.create_subprocess_exec(
                sys.executable,
                "-m",
                "backends.llamacpp.template_process",
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.DEVNULL,
                limit=_PIPE_LIMIT_BYTES,
            )
            if self._process.stdin is None:
                raise EOFError
            self._process.stdin.write(self._first_line)
        return self._process

    async def _kill(self) -> None:
        process, self._process = self._process, None
        if process is not None:
            if process.returncode is None:
                process.kill()
            await process.wait()
            if process.stdin is not None:
                process.stdin.close()


@dataclass(frozen=True, slots=True)
class Masked:
    """`value` with every control token's spelling replaced by a mark; `pattern` finds the marks, `texts` tells them."""

    value: Any
    pattern: re.Pattern[str] | None
    texts: tuple[str, ...]


class ControlTexts:
    """The spellings that must stay text inside what a user wrote.

    `in_results` must stay text where a tool says them: what others wrote would else end the result that it stands in,
    and go on as the model's own words.
    """

    def __init__(self, texts: Iterable[str], *, in_results: Iterable[str] = ()) -> None:
        texts = set(texts)
        self._anywhere = _Spellings(texts)
        self._in_results = _Spellings(texts.union(in_results))

    def mask(self, value: Any) -> Masked:
        """Mask every string inside `value` (JSON), names of properties included. The mark cannot be guessed.

        A string that ends as a spelling begins is masked there too: the next one may be printed right behind it.
        Raises `TemplateError` for a value nested too deeply.
        """
        nonce = secrets.token_hex(8)
        texts: list[str] = []

        def mark(hidden: str) -> str:
            texts.append(hidden)
            return f"\ue000{nonce}:{len(texts) - 1}\ue001"

        def change(text: str) -> str:
            return self._anywhere.mask(text, mark)

        def change_in_results(text: str) -> str:
            return self._in_results.mask(text, mark)

        try:
            masked = _map_strings(value, change, change_in_results)
        except RecursionError as error:
            raise TemplateError("a value is nested too deeply") from error
        if not texts:
            return Masked(value, None, ())
        return Masked(masked, re.compile(f"\ue000{nonce}:([0-9]+)\ue001"), tuple(texts))


class _Spellings:
    def __init__(self, texts: set[str]) -> None:
        self._pattern = re.compile(_trie_pattern(sorted(texts))) if texts else None
        self._beginnings = frozenset(text[:end] for text in texts for end in range(1, len(text)))
        self._longest = max(map(len, texts), default=0)

    def mask(self, text: str, mark: Callable[[str], str]) -> str:
        if self._pattern is None:
            return text
        text = self._pattern.sub(lambda match: mark(match.group()), text)
        n_open = self._n_beginning_at_end(text)
        return text[: len(text) - n_open] + mark(text[len(text) - n_open :]) if n_open else text

    def _n_beginning_at_end(self, text: str) -> int:
        """Length of the longest end of `text` that a spelling begins with."""
        for length in range(min(len(text), self._longest - 1), 0, -1):
            if text[-length:] in self._beginnings:
                return length
        return 0


def segments(rendered: str, masked: Masked) -> list[tuple[str, bool]]:
    """A rendered prompt cut into (text, is the template's own): only the template's own may hold control tokens."""
    if masked.pattern is None:
        return [(rendered, True)]
    parts = masked.pattern.split(rendered)  # own, index, own, index, …, own
    cut = [(part, True) if i % 2 == 0 else (masked.texts[int(part)], False) for i, part in enumerate(parts)]
    return [(text, own) for text, own in cut if text]


def _map_strings(value: Any, change: Callable[[str], str], change_in_results: Callable[[str], str]) -> Any:
    if isinstance(value, str):
        return change(value)
    if isinstance(value, list):
        return [_map_strings(item, change, change_in_results) for item in value]
    if isinstance(value, dict):
        if value.get("role") in ("tool", "function"):
            change = change_in_results
        return {change(key): _map_strings(item, change, change_in_results) for key, item in value.items()}
    return value


def _trie_pattern(texts: list[str]) -> str:
    """A regular expression for any of `texts` that shares their beginnings, so that 6,000 cost what one does."""
    trie: dict[str, Any] = {}
    for text in texts:
        node = trie
        for char in text:
            node = node.setdefault(char, {})
        node[""] = {}
    return _node_pattern(trie)


def _node_pattern(node: dict[str, Any]) -> str:
    chain = ""
    while len(node) == 1 and "" not in node:  # one way on: no recursion for long spellings
        char, node = next(iter(node.items()))
        chain += re.escape(char)
    if node.keys() == {""}:
        return chain
    ways = [re.escape(char) + _node_pattern(child) for char, child in node.items() if char]
    return f"{chain}(?:{'|'.join(ways)}){'?' if '' in node else ''}"
