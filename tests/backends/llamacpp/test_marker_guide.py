from __future__ import annotations

import asyncio
from collections.abc import Iterator

import numpy as np
import pytest

from backends.llamacpp.grammar import GrammarCompiler
from backends.llamacpp.guide import Guide
from backends.llamacpp.marker_guide import AfterMarker
from tests.backends.llamacpp.tiny_vocabulary import TinyVocabulary

WORDS = ("</think>", "</think>yes", "k>\n", "k>sure", "\n\n", "yes", "no", "<think>", "<th", "well")


class Case:
    """An answer that is `yes` or `no` behind a thought, over a tiny vocabulary."""

    def __init__(self, compiler: GrammarCompiler, vocabulary: TinyVocabulary) -> None:
        self.compiler = compiler
        self.vocabulary = vocabulary

    def rule(
        self, closing: str = "</think>", opening: str = "", *, may_end: bool = False, again: bool = False
    ) -> AfterMarker:
        async def made() -> AfterMarker:
            grammar = await self.compiler.choice(["yes", "no"])
            return await self.compiler.after_marker(
                closing, grammar.begin, opening=opening, may_end=may_end, again=again
            )

        return asyncio.run(made())

    def word(self, text: str) -> int:
        return 256 + WORDS.index(text)

    def allowed(self, guide: Guide) -> set[str]:
        """Words, and letters that are no part of them, which may come next; `</s>` for the end."""
        logits = np.zeros(self.vocabulary.n_vocab, np.float32)
        if not guide.is_idle:
            forced = guide.forced()
            guide.mask(logits)
            assert forced is None or np.isfinite(logits[forced])
        return {self.vocabulary.token_text(int(token)) for token in np.flatnonzero(np.isfinite(logits))}

    def say(self, guide: Guide, *pieces: str) -> None:
        for piece in pieces:
            token = self.word(piece) if piece in WORDS else ord(piece)
            assert self.vocabulary.token_text(token) in self.allowed(guide), piece
            guide.accept(token, piece.encode())


@pytest.fixture(scope="module")
def case() -> Iterator[Case]:
    vocabulary = TinyVocabulary(WORDS)
    compiler = GrammarCompiler(vocabulary)
    yield Case(compiler, vocabulary)
    compiler.close()


def test_thought_is_free_and_the_answer_behind_it_is_not(case: Case) -> None:
    guide = case.rule().begin_inside()
    case.say(guide, "well", "{", "</think>")
    assert case.allowed(guide) == {"yes", "no", "y", "n", " ", "\n", "\r", "\t", "\n\n"}
    case.say(guide, "\n\n", "n")
    assert case.allowed(guide) == {"o"}
    case.say(guide, "o")
    assert guide.is_complete


def test_answer_does_not_end_inside_the_thought(case: Case) -> None:
    guide = case.rule().begin_inside()
    assert "</s>" not in case.allowed(guide)
    assert "</s>" in case.allowed(case.rule(may_end=True).begin_inside())


def test_marker_is_found_however_it_is_cut(case: Case) -> None:
    for pieces in (tuple("</think>"), (*"</thin", "k>\n"), ("</think>",)):
        guide = case.rule().begin_inside()
        case.say(guide, "<", "/", *pieces)
        assert "{" not in case.allowed(guide)
        case.say(guide, "yes")
        assert guide.is_complete


def test_token_that_ends_the_marker_and_says_more_does_not_come(case: Case) -> None:
    guide = case.rule().begin_inside()
    assert "</think>yes" not in case.allowed(guide)
    assert "k>sure" in case.allowed(guide)
    case.say(guide, *"</thin")
    assert "k>sure" not in case.allowed(guide)
    assert "k>\n" in case.allowed(guide)
    case.say(guide, "x")
    assert "k>sure" in case.allowed(guide)


def test_what_stands_behind_the_marker_in_its_token_is_the_answers_beginning(case: Case) -> None:
    guide = case.rule().begin_inside()
    guide.accept(case.word("</think>yes"), b"</think>yes")
    assert guide.is_complete


def test_blanks_behind_the_marker_are_few(case: Case) -> None:
    guide = case.rule().begin_inside()
    case.say(guide, "</think>", "\n", "\n\n")
    assert case.allowed(guide) == {"yes", "no", "y", "n"}


def test_answer_may_open_a_thought_or_begin_at_once(case: Case) -> None:
    rule = case.rule(opening="<think>")
    begun = {"yes", "no", "y", "n", "<", "<th", "<think>"}
    guide = rule.begin()
    assert case.allowed(guide) == begun
    case.say(guide, "no")
    assert guide.is_complete
    guide = rule.begin()
    case.say(guide, "<th")
    assert case.allowed(guide) == {"i"}
    case.say(guide, *"ink>", "w", "</think>", "yes")
    assert guide.is_complete


def test_answer_that_begins_like_the_opening_marker_is_taken_for_both(case: Case) -> None:
    async def made() -> AfterMarker:
        grammar = await case.compiler.choice(["<table>"])
        return await case.compiler.after_marker("</think>", grammar.begin, opening="<think>")

    rule = asyncio.run(made())
    guide = rule.begin()
    case.say(guide, "<", "t")
    assert case.allowed(guide) == {"a", "h"}
    case.say(guide, *"able>")
    assert guide.is_complete
    guide = rule.begin()
    case.say(guide, *"<think>", "</think>", *"<table>")
    assert guide.is_complete


def test_guide_that_waits_for_a_marker_costs_nothing_where_the_answer_may_end_without_it(case: Case) -> None:
    guide = case.rule(closing="</done>", may_end=True).begin_inside()
    assert guide.is_idle
    case.say(guide, *"</done>")
    assert not guide.is_idle


def test_markers_may_come_again(case: Case) -> None:
    guide = case.rule(again=True, may_end=True).begin_inside()
    for answer in ("yes", "no"):
        case.say(guide, "w", "</think>", answer)
        assert not guide.is_complete
    assert "</s>" in case.allowed(guide)


def test_marker_that_is_a_token_of_its_own_is_seen() -> None:
    vocabulary = TinyVocabulary(("yes", "no"), ("<think>", "</think>"))
    compiler = GrammarCompiler(vocabulary)

    async def made() -> AfterMarker:
        grammar = await compiler.choice(["yes", "no"])
        return await compiler.after_marker("</think>", grammar.begin, opening="<think>")

    opening, closing = vocabulary.tokenize("<think></think>", parse_special=True)
    guide = asyncio.run(made()).begin()
    logits = np.zeros(vocabulary.n_vocab, np.float32)
    guide.mask(logits)
    assert np.isfinite(logits[opening])
    assert np.isneginf(logits[closing])
    for token in (opening, closing, *vocabulary.tokenize("yes")):
        guide.accept(token, vocabulary.piece(token))
    assert guide.is_complete
    compiler.close()
