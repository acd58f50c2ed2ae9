"""Who is computed in the next step: no I/O, no clock, no llama.cpp.

A step is one batch: one token for every sequence that is answering, and pieces of the prompts of those that are not
there yet, oldest first. `plan` says what to compute, `settle` takes the sampled tokens.

    waiting ──admit──▶ prefilling ──last prompt token computed──▶ decoding ──▶ finished
       ▲                   └──────────────┬───────────────────────────┘
       └──────────── preempted (its cells are needed by older ones)

A slot is a `seq_id` of llama.cpp with what its cells hold. A finished sequence's cells stay until somebody needs the
room, and a prompt that begins the same way is computed only from where it differs.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field

MIN_REUSE_TOKENS = 64
"""A shorter common beginning is not worth leaving the lowest free slot for: gaps between slots in use cost speed."""


@dataclass(slots=True, eq=False)
class Sequence:
    """One answer being made. `tokens` is the prompt, then what was generated; the first `n_past` are in the cache.

    `n_repeated_tokens` of the generated ones say again what the prompt's text had said already: they do not count.
    """

    tokens: list[int]
    n_prompt_tokens: int
    max_tokens: int
    seq_id: int | None = None
    n_past: int = 0
    n_reused_tokens: int = 0
    n_repeated_tokens: int = 0

    @property
    def n_generated_tokens(self) -> int:
        return len(self.tokens) - self.n_prompt_tokens - self.n_repeated_tokens

    @property
    def n_pending_tokens(self) -> int:
        """Tokens to compute before the next one can be sampled; 1 while decoding."""
        return len(self.tokens) - self.n_past

    @property
    def is_decoding(self) -> bool:
        return self.n_pending_tokens == 1 and len(self.tokens) > self.n_prompt_tokens


@dataclass(frozen=True, slots=True)
class Piece:
    """Tokens `start` to `start + n_tokens` of a sequence; its logits are wanted when they are its last."""

    sequence: Sequence
    seq_id: int
    start: int
    n_tokens: int

    @property
    def wants_logits(self) -> bool:
        return self.start + self.n_tokens == len(self.sequence.tokens)


@dataclass(frozen=True, slots=True)
class Trim:
    """Before the step: keep only the first `n_keep` cells of a slot. `sequence` is who wants to build on them."""

    seq_id: int
    n_keep: int
    sequence: Sequence | None = None


@dataclass(slots=True)
class _Slot:
    """`tokens` are those whose cells are in the cache while nobody runs here; `used_at` orders idle slots by age."""

    tokens: list[int] = field(default_factory=list)
    sequence: Sequence | None = None
    used_at: int = 0

    @property
    def n_cells(self) -> int:
        return self.sequence.n_past if self.sequence is not None else len(self.tokens)


class Scheduler:
    """`n_ctx_total` cells shared by `n_parallel` sequences of at most `n_ctx` tokens, `n_batch` tokens a step."""

    def __init__(self, *, n_parallel: int, n_ctx: int, n_ctx_total: int, n_batch: int) -> None:
        self.n_ctx = n_ctx
        self.n_ctx_total = n_ctx_total
        self.n_batch = n_batch
        self.waiting: deque[Sequence] = deque()
        self.running: list[Sequence] = []  # oldest first
        self.n_preempted = 0
        self._slots = [_Slot() for _ in range(n_parallel)]
        self._trims: list[Trim] = []
        self._clock = 0

    @property
    def has_work(self) -> bool:
        return bool(self.waiting or self.running)

    def submit(self, sequence: Sequence) -> None:
        self.waiting.append(sequence)

    def release(self, sequence: Sequence) -> None:
        """A sequence is finished or no longer wanted: its slot is free at once, its cells stay for others to reuse."""
        if sequence.seq_id is None:
            if sequence in self.waiting:
                self.waiting.remove(sequence)
            return
        self._vacate(sequence, keep_cells=True)

    def take_trims(self) -> list[Trim]:
        """What has to be done to the cache before the next step is computed. Each is handed out once."""
        trims, self._trims = self._trims, []
        return trims

    def reuse_failed(self, sequence: Sequence) -> None:
        """The cells that a sequence was to build on are gone: it starts from its first token."""
        sequence.n_past = 0
        sequence.n_reused_tokens = 0

    def plan(self, prompt_budget: int) -> list[Piece]:
        """Pieces of the next step in ascending order of `seq_id`; empty when there is nothing to do.

        `prompt_budget` bounds the prompt tokens of one step, so that running answers go on meanwhile. While nobody is
        answering, the oldest prompt is taken in pieces as large as a batch can hold, which computes fastest.
        """
        while self._n_missing_cells() > 0 and (self._evict_idle() or self._preempt_youngest()):
            pass
        self._admit()
        decoding = [s for s in self.running if s.is_decoding]
        pieces = [self._piece(s, 1) for s in decoding]
        if self.running and not decoding:
            prompt_budget = max(prompt_budget, self.running[0].n_pending_tokens)
        budget = min(prompt_budget, self.n_batch - len(pieces))
        budget = min(budget, self._n_cells_left() - len(pieces))
        for sequence in self.running:
            if budget <= 0:
                break
            if not sequence.is_decoding:
                n_tokens = min(sequence.n_pending_tokens, budget)
                pieces.append(self._piece(sequence, n_tokens))
                budget -= n_tokens
        pieces.sort(key=lambda piece: piece.seq_id)
        return pieces

    @staticmethod
    def _piece(sequence: Sequence, n_tokens: int) -> Piece:
        if sequence.seq_id is None:
            raise ValueError("a sequence without a slot cannot be computed")
        return Piece(sequence, sequence.seq_id, sequence.n_past, n_tokens)

    def settle(self, pieces: list[Piece]) -> Iterator[Sequence]:
        """The step was computed: yields, in the order of their logits, the sequences that get a token now."""
        for piece in pieces:
            piece.sequence.n_past += piece.n_tokens
            if piece.wants_logits:
                yield piece.sequence

    def make_room(self) -> bool:
        """llama.cpp found no cells although the sum said so. False when only one sequence is left and still none."""
        return self._evict_idle() or self._preempt_youngest()

    def clear(self) -> list[Sequence]:
        """Forget the cache and everybody in it; returns who was running."""
        lost, self.running = self.running, []
        self._slots = [_Slot() for _ in self._slots]
        self._trims = [Trim(seq_id, 0) for seq_id in range(len(self._slots))]
        return lost

    def n_cells_used(self) -> int:
        return sum(slot.n_cells for slot in self._slots)

    # Room: cells are counted, never guessed, so that a step that was planned can be computed.

    def _n_cells_left(self) -> int:
        return self.n_ctx_total - self.n_cells_used()

    def _n_missing_cells(self) -> int:
        """Cells short of one more token for every running sequence."""
        return len(self.running) - self._n_cells_left()

    def _evict_idle(self, *, besides: int | None = None) -> bool:
        """Free the cells of the idle slot that was used longest ago."""
        idle = [i for i, slot in enumerate(self._slots) if slot.sequence is None and slot.tokens and i != besides]
        if not idle:
            return False
        oldest = min(idle, key=lambda i: self._slots[i].used_at)
        self._slots[oldest].tokens = []
        self._trims.append(Trim(oldest, 0))
        return True

    def _preempt_youngest(self) -> bool:
        """Send the youngest running sequence back to the head of the queue, to be computed anew later."""
        if len(self.running) < 2:
            return False
        youngest = self.running[-1]
        self._vacate(youngest, keep_cells=False)
        self.waiting.appendleft(youngest)
        self.n_preempted += 1
        return True

    def _vacate(self, sequence: Sequence, *, keep_cells: bool) -> None:
        seq_id = sequence.seq_id
        if seq_id is None:
            return
        self._clock += 1
        slot = self._slots[seq_id]
        slot.sequence = None
        slot.used_at = self._clock
        slot.tokens = sequence.tokens[: sequence.n_past] if keep_cells else []
        if not keep_cells:
            self._trims.append(Trim(seq_id, 0))
        self.running.remove(sequence)
        sequence.seq_id = None
        sequence.n_past = 0

    # Admission: first come, first served.

    def _admit(self) -> None:
        while self.waiting:
            sequence = self.waiting[0]
            seq_id = self._best_slot(sequence.tokens)
            if seq_id is None:
                return
            n_reused = self._n_reusable(seq_id, sequence.tokens)
            while not self._can_hold(sequence, seq_id, n_reused):
                if not self._evict_idle(besides=seq_id):
                    break
            if self.running and not self._can_hold(sequence, seq_id, n_reused):
                return
            self._start(self.waiting.popleft(), seq_id, n_reused)

    def _can_hold(self, sequence: Sequence, seq_id: int, n_reused: int) -> bool:
        """Whether a sequence fits beside what the running ones have yet to compute, with a next token for everybody."""
        n_freed = self._slots[seq_id].n_cells - n_reused
        n_promised = sum(s.n_pending_tokens for s in self.running) + len(self.running) + 1
        return len(sequence.tokens) - n_reused + n_promised <= self._n_cells_left() + n_freed

    def _start(self, sequence: Sequence, seq_id: int, n_reused: int) -> None:
        self._trims.append(Trim(seq_id, n_reused, sequence))
        slot = self._slots[seq_id]
        slot.sequence = sequence
        slot.tokens = []
        sequence.seq_id = seq_id
        sequence.n_past = sequence.n_reused_tokens = n_reused
        self.running.append(sequence)

    def _best_slot(self, tokens: list[int]) -> int | None:
        """The free slot that saves most, the lowest among equals."""
        free = [i for i, slot in enumerate(self._slots) if slot.sequence is None]
        return max(free, key=lambda i: (self._n_reusable(i, tokens), -i), default=None)

    def _n_reusable(self, seq_id: int, tokens: list[int]) -> int:
        """Tokens already in a slot's cells; the last one is always computed, for its logits."""
        n_common = common_prefix(self._slots[seq_id].tokens, tokens)
        n_common = min(n_common, len(tokens) - 1)
        return n_common if n_common >= MIN_REUSE_TOKENS else 0


def common_prefix(a: list[int], b: list[int]) -> int:
    """Number of leading tokens that two lists share."""
    limit = min(len(a), len(b))
    if a[:limit] == b[:limit]:
        return limit
    low, high = 0, limit  # a[:low] equals b[:low], a[:high] does not
    while high - low > 1:
        middle = (low + high) // 2
        if a[low:middle] == b[low:middle]:
            low = middle
        else:
            high = middle
    return low
