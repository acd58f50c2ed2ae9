"""Grammars that hold an answer to a shape: JSON for a schema, a regular expression, a choice, a Lark or GBNF grammar.

    compiler = GrammarCompiler(model)                 # one a model
    await compiler.prepare()                          # before anybody waits for tokens; else the first grammar does it
    grammar = await compiler.json_schema(schema)      # also json_object, regex, choice, lark, gbnf; raises GrammarError
    Generation(..., guides=(grammar.begin,))          # `begin` makes a new guide: one grammar serves any number

In Lark, `compiler.marker("<tool_call>")` is how a text is to be written that may be one token of its own: such a token
is no text, a string in a grammar never matches it. `await compiler.after_marker("</think>", grammar.begin)` has any
guide begin behind a marker in the answer (`.begin`, or `.begin_inside` where the prompt has opened the block already).

Compiling happens in threads of its own, held to limits; grammars are kept, the least recently used go first. A guide's
masks are made of llguidance's bits by one numpy call; where the grammar knows what has to come, nothing is masked.
"""

from __future__ import annotations

import asyncio
import json
import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Final

import orjson
from llguidance import LLMatcher, LLParserLimits, regex_to_lark
from llguidance.gbnf_to_lark import gbnf_to_lark, is_lark_syntax

from backends.llamacpp import grammar_errors
from backends.llamacpp.grammar_errors import GrammarError
from backends.llamacpp.grammar_guide import GrammarGuide
from backends.llamacpp.grammar_tokens import GrammarTokens, Vocabulary
from backends.llamacpp.guide import MakeGuide
from backends.llamacpp.marker_guide import AfterMarker, MarkerTable

MAX_GRAMMAR_BYTES: Final = 256 << 10
COMPILE_TIMEOUT_S: Final = 5.0
N_KEPT_GRAMMARS: Final = 128

# What one grammar may cost: to compile (initial fuel: some 20 ms) and, on the step thread, for one token (step fuel and
# items: a few ms each). States of the lexer take 1-2 kB.
_LIMITS: Final = LLParserLimits(
    initial_lexer_fuel=1_000_000,
    step_lexer_fuel=50_000,
    step_max_items=10_000,
    max_lexer_states=20_000,
    max_grammar_size=200_000,
    verbose_errors=False,
)
# A small model can fall into writing blanks for ever: a few, or a line end with its indentation, is all that may stand
# between two tokens of JSON.
_JSON_BLANKS: Final = r"(?: {1,4}|\n{1,2}[ \t]{0,24})"
_JSON_OPTIONS: Final = {
    "item_separator": ",",
    "key_separator": ":",
    "coerce_one_of": False,
    "lenient": False,
}


@dataclass(frozen=True, slots=True, eq=False)
class Grammar:
    """A compiled grammar; may be shared by any number of requests and threads."""

    _matcher: LLMatcher
    _n_vocab: int
    _pieces: Sequence[bytes]

    def begin(self) -> GrammarGuide:
        """A guide at the grammar's beginning. Takes some 20 µs."""
        return GrammarGuide(self._matcher.deep_copy(), self._n_vocab, self._pieces)


class GrammarCompiler:
    """Compiles grammars for one model. The methods that compile belong to one event loop; all raise `GrammarError`."""

    def __init__(self, vocabulary: Vocabulary, *, timeout_s: float = COMPILE_TIMEOUT_S) -> None:
        self._vocabulary = vocabulary
        self._timeout_s = timeout_s
        self._kept: OrderedDict[str, Grammar] = OrderedDict()
        self._markers: dict[tuple[str, str], MarkerTable] = {}
        self._pool = ThreadPoolExecutor(2, thread_name_prefix="grammar")
        self._tokens: GrammarTokens | None = None
        self._tokens_lock = threading.Lock()

    async def prepare(self) -> None:
        """Read the vocabulary: holds the interpreter lock for 0.1 s (49k tokens) to 1 s (262k)."""
        await asyncio.get_running_loop().run_in_executor(self._pool, self._read_tokens)

    async def json_schema(self, schema: object, *, blanks: bool = True) -> Grammar:
        """JSON that is valid for `schema`. The error's `place` is a JSON pointer into it.

        `blanks`: white space may stand between the tokens of the JSON.
        """
        grammar_errors.check_schema(schema)
        text = self._json_grammar(schema, blanks=blanks)

        def explain(why: str) -> GrammarError:
            return grammar_errors.explain_schema(schema, why, lambda part: self._error_of(self._json_grammar(part)))

        return await self._compile(text, explain)

    async def json_object(self) -> Grammar:
        """Any JSON object."""
        return await self.json_schema({"type": "object"})

    async def regex(self, pattern: str) -> Grammar:
        """A text that matches `pattern` from its beginning to its end; `\\d` are the ASCII digits."""
        _check_size(pattern)
        grammar_errors.check_repetitions(pattern)
        return await self._compile(f"start: /{regex_to_lark(pattern, 'd')}/", grammar_errors.explain_regex)

    async def choice(self, choices: Sequence[str]) -> Grammar:
        """One of several texts."""
        if not choices:
            raise GrammarError("there is nothing to choose from")
        _check_size("".join(choices))
        texts = (json.dumps(choice, ensure_ascii=False) for choice in dict.fromkeys(choices))
        return await self._compile("start: " + " | ".join(texts), grammar_errors.explain_lark)

    async def lark(self, text: str) -> Grammar:
        """llguidance's dialect of Lark, from its rule `start`."""
        _check_size(text)
        grammar_errors.check_repetitions(text)
        return await self._compile(text, grammar_errors.explain_lark)

    async def gbnf(self, text: str) -> Grammar:
        """llama.cpp's notation, from its rule `root`."""
        _check_size(text)
        grammar_errors.check_repetitions(text)
        return await self._compile(grammar_errors.converted(gbnf_to_lark, text), grammar_errors.explain_lark)

    async def lark_or_gbnf(self, text: str) -> Grammar:
        """Either notation, told apart by Lark's `start:`, as vLLM does it."""
        return await (self.lark(text) if is_lark_syntax(text) else self.gbnf(text))

    def marker(self, text: str) -> str:
        """`text` as an item of a Lark rule: the token that is made for it, or else its letters."""
        tokens = self._vocabulary.tokenize(text, parse_special=True)
        if len(tokens) == 1 and tokens[0] in self._vocabulary.marker_tokens:
            return f"<[{tokens[0]}]>"
        return json.dumps(text, ensure_ascii=False)

    async def after_marker(
        self, closing: str, make: MakeGuide, *, opening: str = "", may_end: bool = False, again: bool = False
    ) -> AfterMarker:
        """How guides of `make` begin behind the text `closing`: see there. Its `begin` is a `MakeGuide`."""
        table = self._markers.get((closing, opening))
        if table is None:
            running = asyncio.get_running_loop().run_in_executor(self._pool, self._marker_table, closing, opening)
            table = self._markers[closing, opening] = await running
        return AfterMarker(table, make, may_end=may_end, again=again)

    def close(self) -> None:
        """Waits for what is being compiled: it reads the model's vocabulary."""
        self._pool.shutdown(wait=True, cancel_futures=True)

    @staticmethod
    def _json_grammar(schema: object, *, blanks: bool = True) -> str:
        options = {
            **_JSON_OPTIONS,
            **({"whitespace_pattern": _JSON_BLANKS} if blanks else {"whitespace_flexible": False}),
        }
        return LLMatcher.grammar_from_json_schema(orjson.dumps(schema).decode(), overrides=options)  # type: ignore[arg-type]

    async def _compile(self, text: str, explain: Callable[[str], GrammarError]) -> Grammar:
        if (kept := self._kept.get(text)) is not None:
            self._kept.move_to_end(text)
            return kept
        running = asyncio.get_running_loop().run_in_executor(self._pool, self._compile_now, text, explain)
        try:
            async with asyncio.timeout(self._timeout_s):
                grammar = await running
        except TimeoutError:
            raise GrammarError(f"it takes longer than {self._timeout_s:g} s to compile") from None
        self._kept[text] = grammar
        if len(self._kept) > N_KEPT_GRAMMARS:
            self._kept.popitem(last=False)
        return grammar

    def _compile_now(self, text: str, explain: Callable[[str], GrammarError]) -> Grammar:
        tokens = self._read_tokens()
        if not tokens.missing_bytes.isdisjoint(text.encode()):
            raise GrammarError("it has characters that this model has no tokens for")
        matcher = LLMatcher(tokens.tokenizer, text, log_level=0, limits=_LIMITS)
        if matcher.is_error():
            raise explain(matcher.get_error())
        grammar = Grammar(matcher, self._vocabulary.n_vocab, tokens.pieces)
        if not grammar.begin().can_begin():
            raise explain(grammar_errors.NOTHING_FITS)
        return grammar

    def _error_of(self, text: str) -> str:
        """What is wrong with a grammar, "" for nothing."""
        matcher = LLMatcher(self._read_tokens().tokenizer, text, log_level=0, limits=_LIMITS)
        if matcher.is_error():
            return str(matcher.get_error())
        guide = GrammarGuide(matcher, self._vocabulary.n_vocab, self._read_tokens().pieces)
        return "" if guide.can_begin() else grammar_errors.NOTHING_FITS

    def _marker_table(self, closing: str, opening: str) -> MarkerTable:
        tokens = self._read_tokens()
        opening_tokens: dict[int, int] = {}
        n_bytes = 0
        for token in self._vocabulary.tokenize(opening, parse_special=True):
            if token in self._vocabulary.marker_tokens:
                opening_tokens[n_bytes] = token
            n_bytes += len(self._vocabulary.piece(token))
        return MarkerTable(
            closing.encode(),
            opening.encode(),
            tokens.table,
            opening_tokens=opening_tokens,
            eog_tokens=self._vocabulary.eog_tokens,
            spell=lambda text: [(token, tokens.pieces[token]) for token in tokens.tokenizer.tokenize_bytes(text)],
        )

    def _read_tokens(self) -> GrammarTokens:
        with self._tokens_lock:
            if self._tokens is None:
                self._tokens = GrammarTokens(self._vocabulary)
            return self._tokens


def _check_size(text: str) -> None:
    if len(text.encode("utf-8", "replace")) > MAX_GRAMMAR_BYTES:
        raise GrammarError(f"it is longer than {MAX_GRAMMAR_BYTES >> 10} KiB")
