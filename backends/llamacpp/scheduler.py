"""Who is computed in the next step: no I/O, no clock; what llama.cpp's cells hold is the `PrefixCache`'s business.

A step is one batch: one token for every sequence that is answering, and pieces of the prompts of those that are not
there yet. `plan` says what to compute, `settle` takes the sampled tokens.

    waiting ──admit──▶ prefilling ──last prompt token computed──▶ decoding ──▶ finished
       ▲                   └──────────────┬───────────────────────────┘
       └──────────── preempted (its cells are needed by older ones)

Prompts are computed one after another, the shortest rest first, so that most need not wait for the long ones. Nobody
starves: time is counted in computed tokens, and a prompt of which n tokens are missing goes before everybody who comes
when n tokens have been computed since it came itself.

A prompt that begins like one that is being computed waits until that has come to where they part, and then takes it
over: what many ask at once is computed once. Nobody else waits for that.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping
from itertools import islice
from types import MappingProxyType
from typing import Final

from backends.llamacpp.image_runs import n_text_tokens, run_at
from backends.llamacpp.prefix_cache import MIN_REUSE_TOKENS, Match, PrefixCache
from backends.llamacpp.prefix_tree import common_prefix, outside_images
from backends.llamacpp.sequence import Piece, Sequence

N_CONSIDERED: Final = 64
"""Of so many who wait longest the next one is chosen: choosing has to cost little beside a step."""

GAP_PATIENCE_STEPS: Final = 8
"""A client that has its answer often asks again at once, and takes the place that its last request has left."""

MIN_TOKENS_TO_MOVE: Final = 32
"""A sequence that will end sooner is not worth copying to another stream."""


class Scheduler:
    """Sequences of at most `n_ctx` tokens, `n_batch` tokens a step.

    Of prompts that are scored, at most `n_score_rows` tokens are in a step: each needs a row of logits.
    """

    def __init__(self, cache: PrefixCache, *, n_ctx: int, n_batch: int, n_score_rows: int = 8) -> None:
        self.cache = cache
        self.n_ctx = n_ctx
        self.n_batch = n_batch
        self.n_score_rows = n_score_rows
        self.waiting: deque[Sequence] = deque()  # who was preempted, then who came first
        self.running: list[Sequence] = []  # oldest first
        self.n_preempted = 0
        self._is_tight = False
        self._n_steps_with_gap = 0
        self._n_computed = 0
        self._parting: dict[Sequence, int] = {}  # where others wait for a prompt that is being computed
        self._image_was_last = False

    @property
    def has_work(self) -> bool:
        return bool(self.waiting or self.running)

    def submit(self, sequence: Sequence) -> None:
        sequence.came_at = self._n_computed
        self.waiting.append(sequence)

    def release(self, sequence: Sequence) -> None:
        """A sequence is finished or no longer wanted: its slot is free at once, its cells stay for others to reuse."""
        if sequence.seq_id is None:
            if sequence in self.waiting:
                self.waiting.remove(sequence)
            return
        self._leave(sequence)

    def plan(self, prompt_budget: int, drafts: Mapping[Sequence, list[int]] = MappingProxyType({})) -> list[Piece]:
        """Pieces of the next step in ascending order of `seq_id`; empty when there is nothing to do.

        `prompt_budget` bounds the prompt tokens of one step, so that running answers go on meanwhile. While nobody is
        answering, the first prompt is taken in pieces as large as a batch can hold, which computes fastest.
        """
        while not self.cache.can_take(len(self.running)) and self._free_cells():
            pass
        if not (self._is_tight and self.running):
            self._admit()
        self._close_gap()
        decoding = [s for s in self.running if s.is_decoding]
        prefilling = sorted((s for s in self.running if not s.is_decoding), key=self._turn)
        if image := self._image_piece(prefilling, prompt_budget if decoding else self.n_batch):
            return [image]
        pieces = self._next_tokens(decoding, drafts)
        n_taken = sum(piece.n_rows for piece in pieces)
        if prefilling and not decoding:
            prompt_budget = max(prompt_budget, prefilling[0].n_pending_tokens)
        budget = min(prompt_budget, self.n_batch - n_taken, self.cache.n_cells_left - n_taken)
        n_rows, gives_word = self.n_score_rows, False
        for sequence in prefilling:
            n_tokens = min(self._n_before_parting(sequence), budget)
            if n_tokens <= 0 or (gives_word and n_tokens < sequence.n_pending_tokens):
                break  # a first word need not wait for what comes to nothing in this step
            n_tokens = n_text_tokens(sequence.images, sequence.n_past, n_tokens)
            if sequence.score_from is not None:
                n_tokens = min(n_tokens, max(sequence.score_from - sequence.n_past, 0) + n_rows)
            if n_tokens == 0:
                continue  # others take this step, or its rows
            pieces.append(self._piece(sequence, n_tokens))
            gives_word |= pieces[-1].wants_logits
            budget -= n_tokens
            n_rows -= pieces[-1].n_outputs if sequence.score_from is not None else 0
        pieces.sort(key=lambda piece: piece.seq_id)
        return pieces

    def _image_piece(self, prefilling: list[Sequence], budget: int) -> Piece | None:
        """Of the first prompt that has come to an image; every other step, while there is anything else to compute.

        In a step of its own: llama.cpp computes tokens or embeddings, not both at once.
        """
        at = [(sequence, run_at(sequence.images, sequence.n_past)) for sequence in prefilling]
        sequence, run = next(((s, run) for s, run in at if run is not None), (None, None))
        others = len(prefilling) < len(self.running) or any(run is None for _, run in at)
        if sequence is None or run is None or sequence.seq_id is None or (others and self._image_was_last):
            self._image_was_last = False
            return None
        n_tokens = run.end - sequence.n_past
        if run.image.is_causal:
            n_tokens = min(n_tokens, budget, self.n_batch)
        while not self.cache.can_take(n_tokens + len(self.running)) and self.cache.evict():
            pass
        if others and not self.cache.can_take(n_tokens + len(self.running)):
            return None  # they end, or give way
        self._image_was_last = True
        return Piece(sequence, sequence.seq_id, sequence.n_past, n_tokens, run)

    def _next_tokens(self, decoding: list[Sequence], drafts: Mapping[Sequence, list[int]]) -> list[Piece]:
        """Guesses get the room that nobody else needs."""
        n_pending = sum(sequence.n_pending_tokens for sequence in self.running)
        n_spare = max(0, min(self.n_batch - len(decoding), self.cache.n_cells_left - n_pending))
        pieces = []
        for sequence in decoding:
            draft = tuple(drafts.get(sequence, ())[:n_spare])
            n_spare -= len(draft)
            pieces.append(self._piece(sequence, 1, draft))
        return pieces

    @staticmethod
    def _piece(sequence: Sequence, n_tokens: int, draft: tuple[int, ...] = ()) -> Piece:
        if sequence.seq_id is None:
            raise ValueError("a sequence without a slot cannot be computed")
        return Piece(sequence, sequence.seq_id, sequence.n_past, n_tokens, draft=draft)

    def settle(self, pieces: list[Piece]) -> Iterator[Sequence]:
        """The step was computed: yields, in the order of their logits, the sequences that get a token now."""
        self._is_tight = False
        for piece in pieces:
            sequence, end = piece.sequence, piece.start + piece.n_tokens
            sequence.n_past = end
            self._n_computed += piece.n_tokens
            self.cache.extend(piece.seq_id, sequence.tokens[piece.start : end])
            if piece.wants_logits:
                yield sequence

    def accept(self, sequence: Sequence, n_tokens: int) -> bool:
        """Of the guesses that were computed so many are now tokens of the sequence; the cells of the others are freed.

        False where that cannot be done: the sequence has lost its cells, and is computed again.
        """
        if sequence.seq_id is None:
            raise ValueError("a sequence without a slot has computed nothing")
        start, end = sequence.n_past, sequence.n_past + n_tokens
        self.cache.extend(sequence.seq_id, sequence.tokens[start:end])
        can_go_on = self.cache.cut_behind(sequence.seq_id)
        sequence.n_past = end if can_go_on else 0
        return can_go_on

    def make_room(self) -> bool:
        """llama.cpp found no cells although the sum said so; nobody is admitted until a step succeeds.

        False when only one sequence is left and still none.
        """
        self._is_tight = True
        return self._free_cells()

    def clear(self) -> list[Sequence]:
        """Forget the cache and everybody in it; returns who was running."""
        lost, self.running = self.running, []
        self.cache.clear()
        return lost

    def _close_gap(self) -> None:
        """Where somebody has left and nobody came for a while, have the last one move up if that still pays."""
        self._n_steps_with_gap = self._n_steps_with_gap + 1 if self.cache.has_gap else 0
        if self._n_steps_with_gap < GAP_PATIENCE_STEPS:
            return
        last = max(self.running, key=lambda sequence: -1 if sequence.seq_id is None else sequence.seq_id)
        if last.max_tokens - last.n_generated_tokens < MIN_TOKENS_TO_MOVE:
            return
        if (moved := self.cache.close_gap()) is not None:
            _, last.seq_id = moved

    def _free_cells(self) -> bool:
        """Of an idle sequence, else of the youngest running one."""
        return self.cache.evict() or self._preempt_youngest()

    def _preempt_youngest(self) -> bool:
        """Send the youngest running sequence back to the head of the queue, to go on when there is room."""
        if len(self.running) < 2:
            return False
        youngest = self.running[-1]
        seq_id = self._leave(youngest)
        self.cache.displace(seq_id)
        self.waiting.appendleft(youngest)
        youngest.n_preempted += 1
        self.n_preempted += 1
        return True

    def _leave(self, sequence: Sequence) -> int:
        if sequence.seq_id is None:
            raise ValueError("a sequence that has no slot cannot leave it")
        seq_id = sequence.seq_id
        self.running.remove(sequence)
        self.cache.release(seq_id)
        sequence.seq_id = None
        sequence.n_past = 0
        return seq_id

    # Admission.

    def _admit(self) -> None:
        self._parting.clear()
        while (chosen := self._next()) is not None:
            sequence, match = chosen
            has_room = self._make_room_for(match)
            fits_in_place = has_room or self._make_room_for(match, n_freed=self.cache.n_cells_behind(match))
            if not fits_in_place and self.running:
                return
            self._start(sequence, match, in_place=not has_room)

    def _next(self) -> tuple[Sequence, Match] | None:
        """Whose turn it is to be admitted, and what it finds in the cache."""
        if not self.cache.has_free_seq:
            return None
        best: tuple[int, Sequence, Match] | None = None
        for sequence in islice(self.waiting, N_CONSIDERED):
            match = self._find(sequence)
            if self._is_worth_waiting(sequence, match):
                continue
            if sequence.n_preempted:
                return sequence, match
            turn = self._turn(sequence) - match.n_tokens
            if best is None or turn < best[0]:
                best = turn, sequence, match
        return None if best is None else best[1:]

    def _find(self, sequence: Sequence) -> Match:
        """What is found of a prompt that is scored has no logits: it is computed from its beginning."""
        if sequence.score_from is not None:
            return Match(0, len(sequence.tokens))
        return self.cache.find(sequence.tokens)

    @staticmethod
    def _turn(sequence: Sequence) -> int:
        """Who has the least of it is first."""
        return sequence.came_at + sequence.n_pending_tokens

    def _is_worth_waiting(self, sequence: Sequence, match: Match) -> bool:
        """Whether somebody is computing clearly more of this prompt's beginning than can be had now."""
        if sequence.score_from is not None:
            return False
        for other in self.running:
            begins_alike = sequence.tokens[:MIN_REUSE_TOKENS] == other.tokens[:MIN_REUSE_TOKENS]
            if other.is_decoding or not begins_alike:
                continue
            n_common = common_prefix(sequence.tokens, other.tokens)
            n_common = outside_images(sequence.tokens, min(n_common, len(sequence.tokens) - 1))
            n_won = n_common - match.n_tokens
            if n_common > other.n_past and n_won > 0 and (n_won >= MIN_REUSE_TOKENS or match.seq_id == other.seq_id):
                self._parting[other] = min(n_common, self._parting.get(other, n_common))
                return True
        return False

    def _n_before_parting(self, sequence: Sequence) -> int:
        """Tokens to compute at once: a memory that cannot be cut can be taken over only where it ends just then."""
        parting = self._parting.get(sequence)
        if parting is None or self.cache.cuts_anywhere:
            return sequence.n_pending_tokens
        return parting - sequence.n_past

    def _make_room_for(self, match: Match, *, n_freed: int = 0) -> bool:
        """Have idle sequences give way to a prompt, if it then fits beside the running ones; else they stay."""
        n_needed = match.n_new_cells + self._n_promised() - n_freed
        if not self.cache.could_take(n_needed, besides=match.seq_id):
            return False
        while not self.cache.can_take(n_needed) and self.cache.evict(besides=match.seq_id):
            pass
        return True

    def _n_promised(self) -> int:
        """Cells for what the running ones have yet to compute, and for a next token of everybody."""
        return sum(s.n_pending_tokens for s in self.running) + len(self.running) + 1

    def _start(self, sequence: Sequence, match: Match, *, in_place: bool) -> None:
        self.waiting.remove(sequence)
        sequence.seq_id, sequence.n_past = self.cache.claim(match, in_place=in_place)
        if not sequence.n_preempted:
            sequence.n_reused_tokens = sequence.n_past
        self.running.append(sequence)
