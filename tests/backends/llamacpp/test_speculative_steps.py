"""The step loop over a model that is a function of the text alone: guessing must not change a single token."""

from __future__ import annotations

import queue
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from backends.llamacpp.generation import Delta, Finish, Generation
from backends.llamacpp.sampling import Float32Array, SamplingParams
from backends.llamacpp.scheduler import Scheduler
from backends.llamacpp.speculation import MAX_DRAFT_TOKENS, Speculation, StepCost
from backends.llamacpp.step_loop import StepLoop
from tests.backends.llamacpp.cells import FakeCells, fake_cache

N_VOCAB = 24
END = 23
N_CTX = 120
N_BATCH = 200
WAIT_S = 20.0


class FakeModel:
    eog_tokens = frozenset({END})

    def piece(self, token: int) -> bytes:
        return b"" if token == END else chr(ord("a") + token).encode()


class FakeContext(FakeCells):
    """Its logits depend on the last two tokens of a sequence, which makes its texts go round in circles."""

    def __init__(self, n_parallel: int, kind: str) -> None:
        super().__init__(N_CTX * n_parallel, N_CTX, False, kind)
        self.token, self.pos, self.seq_id, self.wants_logits = (np.zeros(N_BATCH, np.int32) for _ in range(4))
        self.outputs: list[Float32Array] = []
        self.n_rows: list[int] = []

    def decode(self, n_rows: int) -> None:
        self.outputs = []
        self.n_rows.append(n_rows)
        for row in range(n_rows):
            seq_id = int(self.seq_id[row])
            assert self.pos[row] == self.n_tokens(seq_id)
            assert 0 <= self.token[row] < N_VOCAB
            self.compute(seq_id, [int(self.token[row])])
            if self.wants_logits[row]:
                random = np.random.default_rng(self.tokens(seq_id)[-2:])
                self.outputs.append((3 * random.standard_normal(N_VOCAB)).astype(np.float32))

    def logits(self, n_rows: int) -> Float32Array:
        assert n_rows == len(self.outputs), "as many rows as wanted logits"
        return np.array(self.outputs)


class FreeGuesses(StepCost):
    """All are computed, as if they cost nothing."""

    def allot(self, n_sequences: int, chances: list[list[float]], n_rows: int) -> list[int]:
        return [len(own) for own in chances]


@dataclass(slots=True)
class Run:
    loop: StepLoop
    context: FakeContext

    @property
    def n_accepted(self) -> int:
        return self.loop.stats.n_accepted_tokens


def answers(generations: Sequence[Generation], *, guesses: bool, kind: str = "plain") -> tuple[list[Delta], Run]:
    """Each answer as one delta, and how it came about."""
    context = FakeContext(len(generations), kind)
    scheduler = Scheduler(fake_cache(context, len(generations)), n_ctx=N_CTX, n_batch=N_BATCH)
    arrived: queue.SimpleQueue[list[Delta] | str] = queue.SimpleQueue()
    speculation = Speculation(len(generations) * MAX_DRAFT_TOKENS, N_CTX, False, FreeGuesses()) if guesses else None
    loop = StepLoop(
        FakeModel(),  # type: ignore[arg-type]
        context,  # type: ignore[arg-type]
        scheduler,
        arrived.put,
        arrived.put,
        checks_cache=True,
        speculation=speculation,
    )
    for number, generation in enumerate(generations):
        loop.submit(number, generation)
    loop.start()
    found: dict[int, list[Delta]] = {number: [] for number in range(len(generations))}
    while not all(deltas and deltas[-1].finish for deltas in found.values()):
        news = arrived.get(timeout=WAIT_S)
        assert not isinstance(news, str), news
        for delta in news:
            found[delta.generation_id].append(delta)
    loop.stop()
    assert loop.stats.n_generated_tokens == sum(deltas[-1].n_generated for deltas in found.values())
    whole = [replace(deltas[-1], text="".join(delta.text for delta in deltas)) for deltas in found.values()]
    return whole, Run(loop, context)


def generation(prompt: list[int], max_tokens: int = 60, stops: tuple[str, ...] = (), **sampling: Any) -> Generation:
    return Generation(prompt, max_tokens, SamplingParams(**{"temperature": 0.0, **sampling}), stops)


sampling_params = st.builds(
    SamplingParams,
    temperature=st.sampled_from([0.0, 0.3, 0.8, 1.5]),
    top_p=st.sampled_from([1.0, 0.9]),
    top_k=st.sampled_from([0, 5]),
    repetition_penalty=st.sampled_from([1.0, 1.2]),
    frequency_penalty=st.sampled_from([0.0, 0.1]),
    seed=st.integers(0, 1000),
    logit_bias=st.dictionaries(st.integers(0, N_VOCAB - 1), st.sampled_from([-5.0, 3.0]), max_size=3),
    min_tokens=st.integers(0, 30),
    ignore_eos=st.booleans(),
)
generations = st.builds(
    Generation,
    prompt=st.lists(st.integers(0, N_VOCAB - 2), min_size=1, max_size=40),
    max_tokens=st.integers(1, 100),
    sampling=sampling_params,
    stops=st.lists(st.text("abcdefg", min_size=1, max_size=3), max_size=2).map(tuple),
)


@settings(max_examples=150)
@given(asked=st.lists(generations, min_size=1, max_size=4), kind=st.sampled_from(["plain", "plain", "plain", "window"]))
def test_answers_are_the_same_with_guesses_and_without(asked: list[Generation], kind: str) -> None:
    plain, _ = answers(asked, guesses=False, kind=kind)
    guessed, run = answers(asked, guesses=True, kind=kind)
    assert guessed == plain
    assert run.loop.stats.n_drafted_tokens >= run.n_accepted


def test_text_that_goes_round_in_circles_takes_fewer_steps() -> None:
    asked = [generation([1, 2, 3], max_tokens=100, ignore_eos=True)]
    plain, slow = answers(asked, guesses=False)
    guessed, fast = answers(asked, guesses=True)
    assert guessed == plain
    assert fast.n_accepted > 50
    assert fast.loop.stats.n_steps + fast.n_accepted == slow.loop.stats.n_steps


def test_max_tokens_and_context_end_an_answer_in_the_middle_of_a_step() -> None:
    for max_tokens in (60, 61, 62, 63, 1000):
        (answer,), run = answers([generation([1, 2, 3], max_tokens, ignore_eos=True)], guesses=True)
        assert answer.finish is Finish.LENGTH
        assert answer.n_generated == min(max_tokens, N_CTX - 3)
        assert run.n_accepted > 0


def test_stop_string_inside_a_draft_ends_the_answer_there() -> None:
    (whole,), _ = answers([generation([1, 2, 3], 100, ignore_eos=True)], guesses=True)
    stop = whole.text[-3:]
    asked = [generation([1, 2, 3], 100, (stop,), ignore_eos=True)]
    (answer,), _ = answers(asked, guesses=True)
    (plain,), _ = answers(asked, guesses=False)
    assert answer == plain
    assert answer.text == whole.text[: whole.text.index(stop)]
    assert answer.finish is Finish.STOP


@dataclass(slots=True)
class Counting:
    """A guide that is told every token once, and ends the answer after `n_most`."""

    n_most: int
    told: list[int] = field(default_factory=list)
    is_idle: bool = False

    @property
    def is_complete(self) -> bool:
        return len(self.told) >= self.n_most

    def forced(self) -> int | None:
        return 7 if len(self.told) % 10 == 9 else None

    def mask(self, logits: npt.NDArray[np.float32]) -> None:
        logits[len(self.told) % 3] = -np.inf

    def accept(self, token: int, piece: bytes) -> None:
        self.told.append(token)


def _same(guide: Counting) -> Counting:
    return guide


def test_guide_is_asked_and_told_token_by_token() -> None:
    told = []
    for guesses in (False, True):
        guide = Counting(50)
        asked = replace(generation([1, 2, 3], 100, ignore_eos=True), guides=(partial(_same, guide),))
        ((answer,), run) = answers([asked], guesses=guesses)
        assert (answer.finish, answer.n_generated) == (Finish.STOP, 50)
        assert bool(run.n_accepted) == guesses
        told.append(guide.told)
    assert told[0] == told[1]


def test_memory_that_cannot_be_cut_ends_guessing_and_changes_nothing() -> None:
    asked = [generation([1, 2, 3] * 6, 100, ignore_eos=True, temperature=0.8, seed=3)]
    plain, _ = answers(asked, guesses=False, kind="recurrent")
    guessed, run = answers(asked, guesses=True, kind="recurrent")
    assert [(a.text, a.finish) for a in guessed] == [(a.text, a.finish) for a in plain]
    assert run.loop.speculation is None


def test_rows_of_a_step_are_no_more_than_a_batch_holds() -> None:
    _, run = answers([generation([n, 2, 3], 100, ignore_eos=True) for n in range(8)], guesses=True)
    assert max(run.context.n_rows) <= N_BATCH
    assert run.n_accepted > 100


@pytest.mark.parametrize("n_answers", [1, 3])
def test_cells_of_false_guesses_do_not_stay(n_answers: int) -> None:
    """The cache is compared with the cells whenever the loop is idle; a difference would have ended it."""
    asked = [generation([n, 2, 3], 100, temperature=1.0, seed=n, ignore_eos=True) for n in range(n_answers)]
    _, run = answers(asked, guesses=True)
    assert run.loop.stats.n_drafted_tokens > run.n_accepted
    run.loop.scheduler.cache.check()
