"""The thread that owns the context and steps it.

The event loop hands it sequences and takes them back; it hands out text once a step. Nothing else touches the context,
and nothing that could wait for a client runs here.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from backends.llamacpp.answer import Answer
from backends.llamacpp.batch import decode_image, fill
from backends.llamacpp.generation import Delta, Finish, Generation, joined
from backends.llamacpp.logprobs import Float32Array, score
from backends.llamacpp.native import Context, DecodeError, Model
from backends.llamacpp.pace import Pace
from backends.llamacpp.sampling import sample_rows
from backends.llamacpp.scheduler import Scheduler
from backends.llamacpp.sequence import Piece, Sequence
from backends.llamacpp.speculation import Speculation
from backends.llamacpp.step_stats import StepStats

MAX_FAILED_STEPS: Final = 3


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
    _answers: dict[Sequence, Answer] = field(default_factory=dict)
    _by_id: dict[int, Answer] = field(default_factory=dict)
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
        answer = Answer.begin(generation_id, generation, self.model, self.scheduler.n_ctx)
        self._answers[answer.sequence] = self._by_id[generation_id] = answer
        self.scheduler.submit(answer.sequence)

    def _end(self, answer: Answer) -> None:
        self.scheduler.release(answer.sequence)
        del self._answers[answer.sequence]
        del self._by_id[answer.generation_id]

    def _step(self) -> list[Delta]:
        pieces = self.scheduler.plan(self._prompt_budget(), self._drafts())
        self._note_load()
        if not pieces:
            return []
        image = pieces[0].image
        n_rows = fill(self.context, pieces) if image is None else 0
        started = time.perf_counter()
        try:
            if image is None:
                self.context.decode(n_rows)
            else:
                decode_image(self.context, pieces[0], image)
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

    def _prompt_budget(self) -> int:
        running, waiting = self.scheduler.running, self.scheduler.waiting
        n_answering = sum(sequence.is_decoding for sequence in running)
        n_unanswered = len(running) - n_answering + len(waiting)
        return self._pace.budget(self.scheduler.n_batch, n_answering=n_answering, n_unanswered=n_unanswered)

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

    def _end_scored(self, answer: Answer) -> Delta:
        self._end(answer)
        return answer.end_scored()

    def _sample_rows(self, answers: list[Answer], logits: Float32Array) -> list[Delta]:
        """`logits`: float32[n_answers, n_vocab]."""
        if not answers:
            return []
        unchanged = {  # sampling writes to its rows
            row: logits[row].copy() for row, answer in enumerate(answers) if answer.is_rated
        }
        tokens = sample_rows(logits, [answer.sampler for answer in answers])
        self.stats.n_generated_tokens += len(tokens)
        deltas = [
            answer.take(token, unchanged.get(row))
            for row, (answer, token) in enumerate(zip(answers, tokens, strict=True))
        ]
        for answer, delta in zip(answers, deltas, strict=True):
            if delta.finish is not None:
                self._end(answer)
        return deltas

    def _sample_along(
        self, answers: list[Answer], drafts: dict[Sequence, tuple[int, ...]], logits: Float32Array
    ) -> list[Delta]:
        """`logits`: float32[n_answers + n_drafted, n_vocab]; an answer's draft is behind its next token."""
        deltas, row = [], 0
        for answer in answers:
            draft = drafts.get(answer.sequence, ())
            end = row + 1 + len(draft)
            deltas.append(self._follow(answer, draft, logits[row:end]))
            row = end
        return deltas

    def _follow(self, answer: Answer, draft: tuple[int, ...], logits: Float32Array) -> Delta:
        """Sample one token after another while they are those of the draft; what was computed behind is dropped.

        Each is sampled as if it were alone in its step: a guess decides how many tokens a step says, never which.
        """
        deltas: list[Delta] = []
        for guessed, row in zip((*draft, None), logits, strict=True):
            unchanged = row.copy() if answer.is_rated else None  # sampling writes to its row
            token = answer.sampler.sample(row)
            deltas.append(answer.take(token, unchanged))
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
        return joined(deltas)

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
            deltas.append(answer.fail())
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
