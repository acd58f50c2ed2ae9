"""The thread that owns the context and steps it.

The event loop hands it sequences and takes them back; it hands out text once a step. Nothing else touches the context,
and nothing that could wait for a client runs here.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Final

from backends.llamacpp.detokenizer import TextStream
from backends.llamacpp.guide import MakeGuide
from backends.llamacpp.healing import Healing, Seam
from backends.llamacpp.image_runs import ImageRun
from backends.llamacpp.logprobs import Float32Array, RatedToken, rate, score
from backends.llamacpp.native import Context, DecodeError, Model
from backends.llamacpp.pace import Pace
from backends.llamacpp.sampling import Sampler, SamplingParams, sample_rows
from backends.llamacpp.scheduler import Piece, Scheduler, Sequence
from backends.llamacpp.speculation import Speculation
from backends.llamacpp.thought import Thought, ThoughtLimit

MAX_FAILED_STEPS: Final = 3


class Finish(StrEnum):
    STOP = "stop"
    LENGTH = "length"
    ERROR = "error"


@dataclass(frozen=True, slots=True)
class Generation:
    """What is asked for: a prompt in tokens and how to go on from it.

    The last `n_begun_tokens` of the prompt are the answer's own beginning. With `healing` the very last is not read
    but said again, which neither shows nor counts.

    `n_logprobs`: each token is rated beside so many of the likeliest; None for no rating. `scores_prompt`: the
    prompt's tokens too. `shows_stop`: the text ends with what ended it; `shows_control`: control tokens are text.
    """

    prompt: list[int]
    max_tokens: int
    sampling: SamplingParams
    stops: tuple[str, ...] = ()
    shows_stop: bool = False
    shows_control: bool = False
    n_begun_tokens: int = 0
    healing: Healing | None = None
    guides: tuple[MakeGuide, ...] = ()
    thought: ThoughtLimit | None = None
    n_logprobs: int | None = None
    scores_prompt: bool = False
    images: tuple[ImageRun, ...] = ()


@dataclass(frozen=True, slots=True)
class Delta:
    """News of one generation: more text, and how it ended when it has. Counts are of tokens so far.

    `rated` are the tokens that are new, where they were to be rated; `rated_prompt` comes once, with the first of them.
    `failure`: why it ended in an error, where that lies in the request.
    """

    generation_id: int
    text: str
    n_generated: int
    finish: Finish | None = None
    n_reused: int = 0
    n_reasoning: int = 0
    rated: tuple[RatedToken, ...] = ()
    rated_prompt: tuple[RatedToken, ...] = ()
    failure: str | None = None


@dataclass(slots=True)
class StepStats:
    """Counters since start. `step_s` is time with work to do, `decode_s` the part of it inside `llama_decode`."""

    n_steps: int = 0
    step_s: float = 0.0
    decode_s: float = 0.0
    n_prompt_tokens: int = 0
    n_reused_tokens: int = 0
    n_generated_tokens: int = 0
    n_drafted_tokens: int = 0
    n_accepted_tokens: int = 0
    n_preempted: int = 0
    n_failed_steps: int = 0
    n_forks: int = 0
    n_spills: int = 0
    n_restores: int = 0
    n_cache_checks: int = 0
    n_running: int = 0
    n_waiting: int = 0
    n_cells_used: int = 0
    n_spilled_bytes: int = 0


@dataclass(slots=True, eq=False)
class _Answer:
    generation_id: int
    generation: Generation
    sampler: Sampler
    text: TextStream
    sequence: Sequence
    thought: Thought | None
    rated_prompt: list[RatedToken] = field(default_factory=list)

    def take_rated_prompt(self) -> tuple[RatedToken, ...]:
        rated, self.rated_prompt = tuple(self.rated_prompt), []
        return rated


@dataclass(frozen=True, slots=True)
class _Submit:
    generation_id: int
    generation: Generation


@dataclass(frozen=True, slots=True)
class _Cancel:
    generation_id: int


class _Stop:
    pass


_Command = _Submit | _Cancel | _Stop


@dataclass(slots=True)
class StepLoop:
    """`deliver` is called on the step thread with the deltas of one step; it must not block.

    `submit` and `cancel` may be called from any thread and return at once; a cancelled generation's cells are free
    before the next step. After `MAX_FAILED_STEPS` failed steps in a row the loop ends and `on_broken` is told why.
    `checks_cache`: whenever there is nothing to do, have the cache compared with what llama.cpp holds.
    """

    model: Model
    context: Context
    scheduler: Scheduler
    deliver: Callable[[list[Delta]], None]
    on_broken: Callable[[str], None]
    checks_cache: bool = False
    speculation: Speculation | None = None
    stats: StepStats = field(default_factory=StepStats)
    _commands: queue.SimpleQueue[_Command] = field(default_factory=queue.SimpleQueue)
    _answers: dict[Sequence, _Answer] = field(default_factory=dict)
    _by_id: dict[int, _Answer] = field(default_factory=dict)
    _pace: Pace = field(default_factory=Pace)
    _n_failed_in_a_row: int = 0
    _thread: threading.Thread | None = None

    def start(self) -> None:
        self._thread = threading.Thread(target=self._run, name="llama-step", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """End the thread after the step it is in; waits for it."""
        self._commands.put(_Stop())
        if self._thread is not None:
            self._thread.join()

    def submit(self, generation_id: int, generation: Generation) -> None:
        self._commands.put(_Submit(generation_id, generation))

    def cancel(self, generation_id: int) -> None:
        self._commands.put(_Cancel(generation_id))

    def _run(self) -> None:
        try:
            while self._obey():
                started = time.perf_counter()
                decoded_s = self.stats.decode_s
                deltas = self._step()
                if deltas:
                    self.deliver(deltas)
                if self.stats.decode_s > decoded_s:
                    self.stats.step_s += time.perf_counter() - started
        except Exception as error:  # noqa: BLE001 - nobody else would hear of it, and every request would hang
            self.on_broken(f"the step thread ended: {type(error).__name__}")

    def _obey(self) -> bool:
        """Carry out what was asked since the last step, waiting while there is nothing to compute. False: end."""
        while True:
            if not self.scheduler.has_work:
                if self.checks_cache:
                    self.scheduler.cache.check()
                self._note_load()  # no step will
            try:
                command = self._commands.get(block=not self.scheduler.has_work)
            except queue.Empty:
                return True
            match command:
                case _Submit(generation_id, generation):
                    self._begin(generation_id, generation)
                case _Cancel(generation_id):
                    if (answer := self._by_id.get(generation_id)) is not None:
                        self._end(answer)
                case _Stop():
                    return False

    def _begin(self, generation_id: int, generation: Generation) -> None:
        if generation.max_tokens == 0 and not generation.scores_prompt:
            self.deliver([Delta(generation_id, "", 0, Finish.LENGTH)])
            return
        n_before = len(generation.prompt) - generation.n_begun_tokens
        prompt, seam = list(generation.prompt), None
        if generation.healing is not None:
            prompt, seam = prompt[:-1], generation.healing.begin()
        score_from = 0 if generation.scores_prompt else None
        sequence = Sequence(prompt, len(prompt), generation.max_tokens, score_from=score_from, images=generation.images)
        thought = generation.thought.begin(generation.max_tokens) if generation.thought is not None else None
        sampler = Sampler(
            generation.sampling,
            [token for token in prompt[:n_before] if token >= 0] if generation.images else prompt[:n_before],
            self.model.eog_tokens,
            said_tokens=prompt[n_before:],
            seam=seam,
            guides=[*([thought] if thought is not None else []), *(make() for make in generation.guides)],
        )
        text = TextStream(generation.stops, shows_stop=generation.shows_stop)
        answer = _Answer(generation_id, generation, sampler, text, sequence, thought)
        self._answers[sequence] = self._by_id[generation_id] = answer
        self.scheduler.submit(sequence)

    def _end(self, answer: _Answer) -> None:
        self.scheduler.release(answer.sequence)
        del self._answers[answer.sequence]
        del self._by_id[answer.generation_id]

    def _step(self) -> list[Delta]:
        pieces = self.scheduler.plan(self._pace.budget(self.scheduler.n_batch), self._drafts())
        self._note_load()
        if not pieces:
            return []
        image = pieces[0].image
        n_rows = self._fill(pieces) if image is None else 0
        started = time.perf_counter()
        try:
            if image is None:
                self.context.decode(n_rows)
            else:
                self._decode_image(pieces[0], image)
        except DecodeError as error:
            return self._recover(error)
        elapsed_s = time.perf_counter() - started
        self.stats.decode_s += elapsed_s
        self.stats.n_steps += 1
        self._n_failed_in_a_row = 0
        n_prompt_tokens = sum(piece.n_tokens for piece in pieces if not piece.sequence.is_decoding)
        self.stats.n_prompt_tokens += n_prompt_tokens
        self._pace.learn(n_prompt_tokens, elapsed_s)
        if self.speculation is not None and not n_prompt_tokens:
            self.speculation.cost.learn(len(pieces), n_rows - len(pieces), elapsed_s)
        return self._sample(pieces)

    def _drafts(self) -> dict[Sequence, list[int]]:
        """Guesses for the next step: not of what a seam allows, nor beside scores or the positions of an image."""
        if self.speculation is None:
            return {}
        decoding = [sequence for sequence in self.scheduler.running if sequence.is_decoding]
        free = (
            sequence
            for sequence in decoding
            if self._answers[sequence].sampler.seam is None and sequence.score_from is None and not sequence.images
        )
        return self.speculation.drafts(free, len(decoding))

    def _fill(self, pieces: list[Piece]) -> int:
        """Write the pieces into the batch; returns the number of rows."""
        context = self.context
        row = 0
        for piece in pieces:
            tokens, start, n_tokens, n_rows = piece.sequence.tokens, piece.start, piece.n_tokens, piece.n_rows
            end, position = row + n_rows, piece.sequence.position_of(start)
            if n_rows > 1:
                context.token[row:end] = [*tokens[start : start + n_tokens], *piece.draft]
                context.pos[row:end] = range(position, position + n_rows)
            else:
                context.token[row] = tokens[start]
                context.pos[row] = position
            context.seq_id[row:end] = piece.seq_id
            context.wants_logits[row:end] = 0
            if (n_outputs := piece.n_outputs) > 0:
                context.wants_logits[end - n_outputs : end] = 1
            row = end
        return row

    def _decode_image(self, piece: Piece, run: ImageRun) -> None:
        rows = slice(piece.start - run.start, piece.start - run.start + piece.n_tokens)
        position = piece.sequence.position_of(run.start)
        self.context.decode_embeddings(
            run.image, rows, seq_id=piece.seq_id, position=position, wants_logits=piece.wants_logits
        )

    def _sample(self, pieces: list[Piece]) -> list[Delta]:
        n_rows = sum(piece.n_outputs for piece in pieces)
        if n_rows == 0:
            list(self.scheduler.settle(pieces))
            return []
        logits = self.context.logits(n_rows)
        if any(piece.sequence.score_from is not None for piece in pieces):
            logits = self._score(pieces, logits)
        drafts = {piece.sequence: piece.draft for piece in pieces if piece.draft}
        answers = [self._answers[sequence] for sequence in self.scheduler.settle(pieces)]
        done = [self._end_scored(answer) for answer in answers if answer.sequence.max_tokens == 0]
        if done:
            owners = [answer for answer in answers for _ in (None, *drafts.get(answer.sequence, ()))]
            logits = logits[[row for row, answer in enumerate(owners) if answer.sequence.max_tokens > 0]]
            answers = [answer for answer in answers if answer.sequence.max_tokens > 0]
        if drafts:
            return done + self._sample_along(answers, drafts, logits)
        return done + self._sample_rows(answers, logits)

    def _score(self, pieces: list[Piece], logits: Float32Array) -> Float32Array:
        """Rate the prompt tokens of these pieces; returns the rows of `logits` that give a next token."""
        row, rows = 0, list[int]()
        for piece in pieces:
            n_outputs = piece.n_outputs
            row += n_outputs
            if piece.wants_logits:
                rows += range(row - 1 - len(piece.draft), row)
            if piece.sequence.score_from is not None:
                answer = self._answers[piece.sequence]
                n_top = answer.generation.n_logprobs or 0
                answer.rated_prompt += score(piece, logits[row - n_outputs : row], n_top)
        return logits[rows]

    def _end_scored(self, answer: _Answer) -> Delta:
        """Nothing is to be generated: the answer ends with its prompt."""
        self._end(answer)
        rated = answer.take_rated_prompt()
        return Delta(answer.generation_id, "", 0, Finish.LENGTH, rated_prompt=rated)

    def _sample_rows(self, answers: list[_Answer], logits: Float32Array) -> list[Delta]:
        """`logits`: float32[n_answers, n_vocab]."""
        if not answers:
            return []
        unchanged = {  # sampling writes to its rows
            row: logits[row].copy()
            for row, answer in enumerate(answers)
            if answer.generation.n_logprobs is not None and answer.sampler.seam is None
        }
        tokens = sample_rows(logits, [answer.sampler for answer in answers])
        self.stats.n_generated_tokens += len(tokens)
        deltas = [
            self._take(answer, token, unchanged.get(row))
            for row, (answer, token) in enumerate(zip(answers, tokens, strict=True))
        ]
        for answer, delta in zip(answers, deltas, strict=True):
            if delta.finish is not None:
                self._end(answer)
        return deltas

    def _sample_along(
        self, answers: list[_Answer], drafts: dict[Sequence, tuple[int, ...]], logits: Float32Array
    ) -> list[Delta]:
        """`logits`: float32[n_answers + n_drafted, n_vocab]; an answer's draft is behind its next token."""
        deltas, row = [], 0
        for answer in answers:
            draft = drafts.get(answer.sequence, ())
            end = row + 1 + len(draft)
            deltas.append(self._follow(answer, draft, logits[row:end]))
            row = end
        return deltas

    def _follow(self, answer: _Answer, draft: tuple[int, ...], logits: Float32Array) -> Delta:
        """Sample one token after another while they are those of the draft; what was computed behind is dropped.

        Each is sampled as if it were alone in its step: a guess decides how many tokens a step says, never which.
        """
        is_rated = answer.generation.n_logprobs is not None and answer.sampler.seam is None
        deltas: list[Delta] = []
        for guessed, row in zip((*draft, None), logits, strict=True):
            unchanged = row.copy() if is_rated else None  # sampling writes to its row
            token = answer.sampler.sample(row)
            deltas.append(self._take(answer, token, unchanged))
            if token != guessed or deltas[-1].finish is not None:
                break
        n_true = len(deltas) - 1
        self.stats.n_generated_tokens += len(deltas)
        self.stats.n_drafted_tokens += len(draft)
        self.stats.n_accepted_tokens += n_true
        if draft and not self.scheduler.accept(answer.sequence, n_true):
            self.speculation = None  # a memory that cannot be cut after all: once is enough
        if deltas[-1].finish is not None:
            self._end(answer)
        return _joined(deltas)

    def _take(self, answer: _Answer, token: int, logits: Float32Array | None) -> Delta:
        """Give an answer its next token, and say whether that is its last. `logits`: of the model, to rate it by."""
        sequence, generation, thought = answer.sequence, answer.generation, answer.thought
        sequence.tokens.append(token)
        n_reasoning = thought.n_tokens if thought is not None else 0
        piece = self.model.piece(token)
        answer.sampler.accept(token, piece)
        if (failure := answer.sampler.failure) is not None:
            return Delta(answer.generation_id, "", sequence.n_generated_tokens, Finish.ERROR, failure=failure)
        if (seam := answer.sampler.seam) is not None:
            piece = self._repeat(answer, seam, piece)
            if thought is not None:
                thought.read(piece)
        elif generation.shows_control and not piece:
            piece = self.model.spelling(token)
        is_thought = thought is not None and thought.n_tokens > n_reasoning
        rated = () if logits is None else (rate(logits, token, generation.n_logprobs or 0, is_thought=is_thought),)
        text, finish = self._show(answer, token, piece)
        return Delta(
            answer.generation_id,
            text,
            sequence.n_generated_tokens,
            finish,
            sequence.n_reused_tokens,
            thought.n_tokens if thought is not None else 0,
            rated,
            answer.take_rated_prompt() if answer.rated_prompt else (),
        )

    def _show(self, answer: _Answer, token: int, piece: bytes) -> tuple[str, Finish | None]:
        """The text that a token makes certain, and how the answer ended if it did."""
        sequence, generation = answer.sequence, answer.generation
        n_generated = sequence.n_generated_tokens
        finish: Finish | None = None
        if self._ends(token, generation.sampling):
            text = answer.text.push(piece, may_stop=False) if generation.shows_stop else ""
            text, finish = text + answer.text.finish(), Finish.STOP
        else:
            min_tokens = generation.sampling.min_tokens
            text = answer.text.push(piece, may_stop=min_tokens == 0 or n_generated > min_tokens)
            if answer.text.stopped:
                finish = Finish.STOP
            elif answer.sampler.is_complete:
                text, finish = text + answer.text.finish(), Finish.STOP
            elif n_generated >= sequence.max_tokens or len(sequence.tokens) >= self.scheduler.n_ctx:
                text, finish = text + answer.text.finish(), Finish.LENGTH
        return text, finish

    def _ends(self, token: int, sampling: SamplingParams) -> bool:
        return (token in self.model.eog_tokens and not sampling.ignore_eos) or token in sampling.stop_token_ids

    @staticmethod
    def _repeat(answer: _Answer, seam: Seam, piece: bytes) -> bytes:
        """An answer's token that says its beginning again: what of it is new. The seam ends where all is said."""
        answer.sequence.n_repeated_tokens += 1
        new = seam.take(piece)
        if not seam.rest:
            answer.sampler.seam = None
        return new

    def _recover(self, error: DecodeError) -> list[Delta]:
        """A step was not computed. The cache is out of room: make some. Else: everybody in it has lost their cells."""
        self.stats.n_failed_steps += 1
        if error.is_kv_full and self.scheduler.make_room():
            return []
        self._n_failed_in_a_row += 1
        deltas = []
        for sequence in self.scheduler.clear():
            answer = self._answers.pop(sequence)
            del self._by_id[answer.generation_id]
            deltas.append(Delta(answer.generation_id, "", sequence.n_generated_tokens, Finish.ERROR))
        if self._n_failed_in_a_row >= MAX_FAILED_STEPS:
            self._commands.put(_Stop())
            self.on_broken(f"{error}; " + " ".join(error.log[-3:]))
        return deltas

    def _note_load(self) -> None:
        self.stats.n_running = len(self.scheduler.running)
        self.stats.n_waiting = len(self.scheduler.waiting)
        self.stats.n_preempted = self.scheduler.n_preempted
        cache = self.scheduler.cache
        self.stats.n_cells_used = cache.n_cells_used
        self.stats.n_spilled_bytes = cache.n_spilled_bytes
        self.stats.n_reused_tokens = cache.stats.n_reused_tokens
        self.stats.n_forks = cache.stats.n_forks
        self.stats.n_spills = cache.stats.n_spills
        self.stats.n_restores = cache.stats.n_restores
        self.stats.n_cache_checks = cache.stats.n_checks


def _joined(deltas: list[Delta]) -> Delta:
    """News of one generation, as if they had come at once."""
    if len(deltas) == 1:
        return deltas[0]
    return replace(
        deltas[-1],
        text="".join(delta.text for delta in deltas),
        rated=tuple(rated for delta in deltas for rated in delta.rated),
        rated_prompt=deltas[0].rated_prompt,
    )
