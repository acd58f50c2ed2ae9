"""The last token of a begun answer is said again, in whatever tokens the model had used, and shown only once."""

from __future__ import annotations

import queue
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from backends.llamacpp.generation import Delta, Finish, Generation
from backends.llamacpp.healing import Healing, PieceTable, Seam
from backends.llamacpp.native import Context, Model
from backends.llamacpp.prompts import Prompt, PromptBuilder
from backends.llamacpp.sampling import Sampler, SamplingParams, sample_rows
from backends.llamacpp.scheduler import Scheduler
from backends.llamacpp.sequence import Sequence
from backends.llamacpp.step_loop import StepLoop
from backends.openai_schema import ChatCompletionRequest
from tests.backends.llamacpp.cells import FakeCells, fake_cache
from tests.backends.llamacpp.test_continuation import CHAT, continued
from tests.backends.llamacpp.worker import Client, assistant, user

THINK, END = 0, 1  # tokens that are no text
PIECES = [
    b"<think>",
    b"",
    b"a",
    b"b",
    b"ab",
    b"aba",
    b"bb",
    b"\n",
    b"\n\n",
    b" ",
    b" a",
    b"\xe1",
    b"\xbb\x85",
    b" \xe1",
]
DROPPED = [piece for piece in PIECES[2:] if piece]

pieces_of_a_vocabulary = st.lists(st.text("ab\0", max_size=4).map(str.encode), min_size=1, max_size=12)


def table(pieces: list[bytes] = PIECES) -> PieceTable:
    return PieceTable((token, piece) for token, piece in enumerate(pieces) if token > END or pieces is not PIECES)


def can_say(pieces: list[bytes], text: bytes) -> bool:
    """Whether some of `pieces`, one after another, begin with `text`."""
    return any(
        piece.startswith(text) or (text.startswith(piece) and can_say(pieces, text[len(piece) :]))
        for piece in pieces
        if piece
    )


@given(pieces_of_a_vocabulary, st.text("ab\0", min_size=1, max_size=5).map(str.encode))
def test_tokens_agree_with_a_text_that_can_be_said_from_there(pieces: list[bytes], text: bytes) -> None:
    expected = [
        token
        for token, piece in enumerate(pieces)
        if piece and (piece.startswith(text) or (text.startswith(piece) and can_say(pieces, text[len(piece) :])))
    ]
    assert sorted(table(pieces).agreeing(text).tolist()) == expected


@given(pieces_of_a_vocabulary, st.data())
def test_whatever_allowed_tokens_come_the_seam_closes_with_the_dropped_bytes_said_once(
    pieces: list[bytes], data: st.DataObject
) -> None:
    dropped = data.draw(st.sampled_from(pieces))
    if not dropped:
        return
    seam, said, new = Seam(table(pieces), dropped), b"", b""
    while seam.rest:
        assert new == b""
        piece = pieces[data.draw(st.sampled_from(seam.allowed().tolist()))]
        said += piece
        new = seam.take(piece)
    assert said == dropped + new


# Sampling


def sampler(dropped: bytes, prompt: tuple[int, ...] = (), said: tuple[int, ...] = (), **params: Any) -> Sampler:
    seam = Seam(table(), dropped)
    return Sampler(SamplingParams(**params), prompt, frozenset({END}), said_tokens=said, seam=seam)


def row(**logits: float) -> npt.NDArray[np.float32]:
    """Logits by token: `t7=5.0`; 0 for all others."""
    values = np.zeros(len(PIECES), np.float32)
    for name, value in logits.items():
        values[int(name[1:])] = value
    return values


@pytest.mark.parametrize("params", [{}, {"top_k": 2}, {"top_p": 0.5}, {"min_p": 0.9}, {"temperature": 0.0}])
def test_only_tokens_that_agree_come_while_there_is_a_seam(params: dict[str, Any]) -> None:
    one = sampler(b"ab", seed=1, **params)
    logits = row(t0=50, t1=50, t3=40, t7=40, t2=1, t4=2)
    assert {one.sample(logits.copy()) for _ in range(50)} <= {2, 4, 5}
    one.seam = None
    assert one.sample(logits.copy()) in {0, 1, 3, 7}


def test_greedy_sequences_beside_a_seam_take_their_largest() -> None:
    plain = Sampler(SamplingParams(temperature=0.0), (), frozenset({END}))
    healing = sampler(b"\n\n", temperature=0.0)
    logits = row(t3=9, t7=1)
    assert sample_rows(np.stack([logits] * 2), [plain, healing]) == [3, 7]
    assert not healing.is_plain_greedy
    healing.seam = None
    assert healing.is_plain_greedy
    assert sample_rows(np.stack([logits] * 2), [plain, healing]) == [3, 3]


def test_tokens_said_again_are_none_of_those_that_have_to_come() -> None:
    one = sampler(b"a", temperature=0.0, min_tokens=1)
    one.accept(2)
    one.seam = None
    assert one.sample(row(t1=9, t3=1)) == 3
    one.accept(3)
    assert one.sample(row(t1=9, t3=1)) == END


def test_begun_answer_counts_as_generated_for_every_penalty() -> None:
    penalties: dict[str, Any] = {"repetition_penalty": 2.0, "presence_penalty": 0.25, "frequency_penalty": 0.5}
    undisturbed = Sampler(SamplingParams(temperature=0.0, **penalties), (2, 3), frozenset({END}))
    for token in (3, 4, 4, 7):
        undisturbed.accept(token)
    begun = sampler(b"\n", (2, 3), said=(3, 4, 4), temperature=0.0, **penalties)
    begun.accept(7)
    begun.seam = None
    expected, found = (row(t2=4, t3=5, t4=6, t7=3) for _ in range(2))
    assert undisturbed.sample(expected) == begun.sample(found)
    assert found.tolist() == expected.tolist()


def test_tokens_said_again_do_not_count_and_are_decoded_like_others() -> None:
    sequence = Sequence([5, 6, 7], 3, max_tokens=2, n_past=3)
    assert not sequence.is_decoding
    sequence.tokens.append(8)
    sequence.n_repeated_tokens += 1
    assert sequence.is_decoding
    assert sequence.n_generated_tokens == 0


# The step loop, on a model that says anything


class SmallModel:
    """As much of a `Model` as is asked for, with `PIECES` for a vocabulary."""

    n_vocab = len(PIECES)
    eog_tokens = frozenset({END})
    chat_template = None
    bos_token = eos_token = END
    adds_bos = False
    marker_texts = frozenset[str]()

    def __init__(self) -> None:
        self.said: list[int] = []

    def piece(self, token: int) -> bytes:
        self.said.append(token)
        return PIECES[token]

    def token_text(self, _token: int) -> str:
        return "<end>"

    def control_texts(self) -> tuple[str, ...]:
        return ("<end>",)

    def tokenize(self, text: str, *, parse_special: bool = False) -> list[int]:
        """The longest token that fits, again and again; what no token says is left out."""
        raw, tokens = text.encode(), []
        while raw:
            fitting = [token for token, piece in enumerate(PIECES) if piece and raw.startswith(piece)]
            best = max(fitting, key=lambda token: len(PIECES[token]), default=None)
            tokens += [best] if best is not None else []
            raw = raw[len(PIECES[best]) if best is not None else 1 :]
        return tokens


@dataclass(slots=True)
class SmallContext:
    """Random logits for every row, and the tokens that were read."""

    seed: int
    read: list[int] = field(default_factory=list)
    token: npt.NDArray[np.int32] = field(default_factory=lambda: np.zeros(16, np.int32))
    pos: npt.NDArray[np.int32] = field(default_factory=lambda: np.zeros(16, np.int32))
    seq_id: npt.NDArray[np.int32] = field(default_factory=lambda: np.zeros(16, np.int32))
    wants_logits: npt.NDArray[np.int8] = field(default_factory=lambda: np.zeros(16, np.int8))

    def decode(self, n_tokens: int) -> None:
        self.read += self.token[:n_tokens].tolist()

    def logits(self, n_rows: int) -> npt.NDArray[np.float32]:
        rng = np.random.default_rng([self.seed, len(self.read)])
        return rng.normal(0, 2, (n_rows, len(PIECES))).astype(np.float32)


def run(generation: Generation, seed: int, *, n_ctx: int = 64) -> tuple[list[Delta], list[int], list[int]]:
    """Deltas of a generation, the tokens that were sampled and those that were read."""
    model, context = SmallModel(), SmallContext(seed)
    news: queue.SimpleQueue[list[Delta]] = queue.SimpleQueue()
    scheduler = Scheduler(fake_cache(FakeCells(n_ctx, n_ctx), 1), n_ctx=n_ctx, n_batch=16)
    loop = StepLoop(cast(Model, model), cast(Context, context), scheduler, news.put, pytest.fail)
    loop.start()
    loop.submit(1, generation)
    deltas: list[Delta] = []
    while not deltas or deltas[-1].finish is None:
        deltas += news.get(timeout=5)
    loop.stop()
    return deltas, model.said, context.read


@pytest.mark.parametrize("dropped", DROPPED)
@pytest.mark.parametrize("temperature", [0.0, 0.8])
def test_what_is_said_again_is_neither_shown_nor_counted(dropped: bytes, temperature: float) -> None:
    prompt = [3, 7, PIECES.index(dropped)]
    sampling = SamplingParams(temperature=temperature, seed=3)
    for seed in range(25):
        generation = Generation(prompt, 6, sampling, n_begun_tokens=2, healing=Healing(dropped, table()))
        deltas, said, read = run(generation, seed)
        assert read == [*prompt[:-1], *said[:-1]]
        said_bytes = b"".join(PIECES[token] for token in said)
        assert said_bytes.startswith(dropped)
        whole_characters = said_bytes[len(dropped) :].decode(errors="replace").rstrip("\ufffd")
        assert "".join(delta.text for delta in deltas).rstrip("\ufffd") == whole_characters
        n_repeated = next(n for n in range(len(said) + 1) if len(b"".join(PIECES[t] for t in said[:n])) >= len(dropped))
        assert [delta.n_generated for delta in deltas] == [
            max(0, n_said - n_repeated) for n_said in range(1, len(said) + 1)
        ]
        assert deltas[-1].finish is (Finish.STOP if said[-1] == END else Finish.LENGTH)
        assert deltas[-1].n_generated == 6 or deltas[-1].finish is Finish.STOP


def test_stop_string_is_looked_for_behind_the_seam_only() -> None:
    for seed in range(25):
        healing = Healing(b"aba", table())
        generation = Generation([3, 5], 8, SamplingParams(seed=seed), ("a",), n_begun_tokens=1, healing=healing)
        deltas, said, _ = run(generation, seed)
        new = b"".join(PIECES[token] for token in said)[3:].decode(errors="ignore")
        assert "".join(delta.text for delta in deltas).replace("\ufffd", "") == new.partition("a")[0]


def test_context_that_ends_inside_the_seam_ends_the_answer() -> None:
    generation = Generation(
        [2, 5], 1, SamplingParams(temperature=0.0), n_begun_tokens=1, healing=Healing(b"aba", table())
    )
    ends = [run(generation, seed, n_ctx=3) for seed in range(40)]
    assert {len(said) for _, said, _ in ends} == {2}
    cut_short = [deltas[-1] for deltas, said, _ in ends if said == [2, 3]]
    assert cut_short
    assert {(delta.text, delta.n_generated, delta.finish) for delta in cut_short} == {("", 0, Finish.LENGTH)}


# Prompts


async def small_prompt(content: str, **fields: Any) -> Prompt:
    builder = PromptBuilder(cast(Model, SmallModel()), template="a</think>", reasoning="think")
    await builder.start()
    try:
        return await builder.chat(ChatCompletionRequest.model_validate(continued([], None, content, **fields)))
    finally:
        await builder.close()


async def test_last_token_of_a_begun_answer_is_the_one_that_heals() -> None:
    prompt = await small_prompt("a bab")
    assert prompt.healing is not None
    assert prompt.healing.dropped == b"ab"
    assert (prompt.tokens, prompt.n_begun_tokens) == ([2, 2, 9, 3, 4], 4)
    assert not prompt.healing.table.agreeing(b"<").size  # a marker is no way to say it


@pytest.mark.parametrize("content", ["a<think>", ""])
async def test_marker_or_nothing_at_the_end_does_not_heal(content: str) -> None:
    assert (await small_prompt(content)).healing is None


async def test_fresh_prompt_does_not_heal() -> None:
    prompt = await small_prompt("a", continue_final_message=False, add_generation_prompt=True)
    assert (prompt.healing, prompt.n_begun_tokens) == (None, 0)


# The real worker. In these answers the best token leads by far: see test_continuation.py.

ANSWERS = {
    "paragraphs": "First, wash them.\n\nThen cut them.\n\n\n1. Thin\n\n2. Thick\n\nEnjoy!",
    "vietnamese": "Tôi thích ăn phở.\n\nNgày mai trời đẹp.",
    "chinese": "你好！今天天气很好。\n\n我们去公园吧。",
    "emoji": "Sure 🍎 and 🇻🇳 too 👩‍👩‍👧!\n\nYes 🎉🎉 ok.",
    "code": "```python\ndef f(x):\n\n    return {\n        'a': x}\n```",
}


def conversation(answer: str) -> list[dict[str, str]]:
    """One in which the model copies an answer that it gave before."""
    return [*[user("Say it."), assistant(answer)] * 3, user("Say it.")]


def cuts(pieces: list[str]) -> Iterator[tuple[str, str]]:
    """(what was shown, what came next) at every place but the end."""
    for n_shown in range(1, len(pieces)):
        yield "".join(pieces[:n_shown]), pieces[n_shown]


@pytest.mark.parametrize("name", ANSWERS)
async def test_answer_cut_behind_any_token_goes_on_as_if_undisturbed(client: Client, name: str) -> None:
    messages = conversation(ANSWERS[name])
    fields = {"max_tokens": 80, "temperature": 0}
    whole = await client.stream(CHAT, {"messages": messages, **fields})
    assert whole.finish() == "stop"
    for shown, _ in cuts(whole.pieces()):
        body = continued(messages, None, shown, **fields)
        answer = await client.ok(CHAT, body)
        (choice,) = answer["choices"]
        assert (shown + choice["message"]["content"], choice["finish_reason"]) == (whole.text(), "stop")
        assert answer["usage"]["prompt_tokens"] == (await client.ok("/tokenize", body))["count"]


async def test_one_token_more_is_the_token_that_came_next(client: Client) -> None:
    messages = conversation(ANSWERS["paragraphs"])
    whole = await client.stream(CHAT, {"messages": messages, "max_tokens": 80, "temperature": 0})
    for shown, expected in cuts(whole.pieces()):
        answer = await client.ok(CHAT, continued(messages, None, shown, max_tokens=1, temperature=0))
        assert answer["choices"][0]["message"]["content"] == expected
        assert answer["usage"]["completion_tokens"] == 1


async def test_sampled_choices_neither_double_nor_lose_what_is_said_again(client: Client) -> None:
    expected = "Wash 🍎 🇻🇳.\n\nCut.\n\n\n1. Thin"
    messages = conversation(expected)
    fields = {"max_tokens": 40, "temperature": 0.8, "seed": 5, "min_p": 0.6, "n": 2}
    whole = await client.stream(CHAT, {"messages": messages, **fields})
    assert whole.text(0) == whole.text(1) == expected
    for shown, _ in cuts(whole.pieces()):
        answer = await client.ok(CHAT, continued(messages, None, shown, **fields))
        assert {shown + choice["message"]["content"] for choice in answer["choices"]} == {expected}
