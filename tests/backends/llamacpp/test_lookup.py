from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backends.llamacpp import lookup
from backends.llamacpp.lookup import NGRAM_SIZES, NO_GUESS, Guess, NgramIndex, Odds

FEW_WORDS = st.lists(st.integers(-2, 3), max_size=300)


def followed(tokens: list[int], guess: Guess) -> bool:
    """Whether what is guessed has followed the last `n_matched` tokens somewhere before."""
    end = tokens[-guess.n_matched :]
    return any(
        tokens[i - guess.n_matched : i] == end and tokens[i : i + len(guess.tokens)] == guess.tokens
        for i in range(guess.n_matched, len(tokens))
    )


def plain_search(tokens: list[int], n_most: int) -> Guess:
    """The same by looking at every place."""
    for size in NGRAM_SIZES:
        for i in range(len(tokens) - 1, size - 1, -1):
            if tokens[i - size : i] == tokens[-size:]:
                after = tokens[i : i + n_most]
                n_sayable = next((n for n, token in enumerate(after) if token < 0), len(after))
                return Guess(after[:n_sayable], size)
    return NO_GUESS


@given(tokens=FEW_WORDS, n_most=st.integers(1, 20), cuts=st.lists(st.integers(0, 300)))
def test_a_guess_has_really_followed_however_the_tokens_came(tokens: list[int], n_most: int, cuts: list[int]) -> None:
    index = NgramIndex(300)
    for n_tokens in [*sorted(cut for cut in cuts if cut < len(tokens)), len(tokens)]:
        guess = index.look(tokens[:n_tokens], n_most)
        assert len(guess.tokens) <= n_most
        assert all(token >= 0 for token in guess.tokens)
        if guess.n_matched:
            assert guess.n_matched in NGRAM_SIZES
            assert followed(tokens[:n_tokens], guess)
        else:
            assert guess == NO_GUESS


@given(tokens=FEW_WORDS, n_most=st.integers(1, 20))
def test_the_latest_place_of_the_longest_ngram_is_found(tokens: list[int], n_most: int) -> None:
    assert NgramIndex(10_000).look(tokens, n_most) == plain_search(tokens, n_most)


def test_one_token_at_a_time_finds_what_all_at_once_finds() -> None:
    tokens = [i * i % 97 for i in range(400)]
    slowly = NgramIndex(400)
    for n_tokens in range(1, 401):
        assert slowly.look(tokens[:n_tokens], 5) == NgramIndex(400).look(tokens[:n_tokens], 5)
    assert slowly.look(tokens, 5).n_matched == 8


def test_long_prompt_is_taken_in_over_several_looks() -> None:
    n_unique = 3 * lookup.INDEXED_AT_ONCE
    tokens = [*range(n_unique), *range(n_unique - 100, n_unique - 80)]
    index = NgramIndex(len(tokens))
    looks = [index.look(tokens, 3) for _ in range(3)]
    assert looks == [NO_GUESS, NO_GUESS, Guess([n_unique - 80, n_unique - 79, n_unique - 78], 8)]


def test_memory_is_bounded_and_late_places_push_out_early_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lookup, "MAX_TABLE_BITS", 6)
    index = NgramIndex(1_000_000)
    recent = list(range(5000, 5016))
    tokens = [*range(2000), *recent, *recent[:8]]
    assert index.look(tokens, 3).tokens == [5008, 5009, 5010]
    assert {table.size for table in index._tables.values()} == {64}


def test_places_of_an_image_are_not_guessed() -> None:
    tokens = [1, 2, 3, 4, 5, -7, -7, 6, 1, 2, 3, 4]
    assert NgramIndex(100).look(tokens, 5) == Guess([5], 4)
    assert NgramIndex(100).look([*tokens, 5], 5) == Guess([], 4)


def test_chances_fall_along_a_guess_and_grow_with_what_has_matched() -> None:
    odds = Odds()
    short, long = odds.chances(Guess([1] * 9, 2)), odds.chances(Guess([1] * 9, 8))
    assert short == sorted(short, reverse=True)
    assert long == sorted(long, reverse=True)
    assert all(a < b for a, b in zip(short, long, strict=True))
    assert odds.chances(NO_GUESS) == []


@given(st.lists(st.tuples(st.sampled_from(NGRAM_SIZES), st.booleans()), max_size=200))
def test_odds_are_those_of_what_came_lately(came_true: list[tuple[int, bool]]) -> None:
    odds = Odds()
    for n_matched, is_true in came_true:
        odds.learn(Guess([1, 1], n_matched), [1 if is_true else 2])
    for size in NGRAM_SIZES:
        (chance,) = odds.chances(Guess([1], size))
        assert 0 < chance < 1
        lately = [is_true for n_matched, is_true in came_true if n_matched == size][-60:]
        if len(lately) == 60 and len(set(lately)) == 1:
            assert chance > 0.9 if lately[0] else chance < 0.1


def test_nothing_is_learned_from_behind_a_false_guess() -> None:
    odds, same = Odds(), Odds()
    odds.learn(Guess([1, 2, 3, 4, 5], 2), [1, 9, 3, 4, 5])
    same.learn(Guess([1, 2], 2), [1, 9])
    for size in NGRAM_SIZES:
        assert odds.chances(Guess([1], size)) == same.chances(Guess([1], size))
