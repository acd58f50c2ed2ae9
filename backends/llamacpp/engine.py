"""The worker's engine as the event loop sees it: load, prompts in, text out, counters."""

from __future__ import annotations

import asyncio
import itertools
from collections import deque
from collections.abc import AsyncGenerator, Callable, Sequence
from dataclasses import dataclass, field
from typing import TypeVarTuple

from backends.base import EngineFailure, EngineState, FailureReason
from backends.llamacpp.embedding_loop import EmbeddingLoop
from backends.llamacpp.embedding_queue import Vector
from backends.llamacpp.generation import Delta, Generation
from backends.llamacpp.grammar import GrammarCompiler
from backends.llamacpp.image_sources import ImageFetcher
from backends.llamacpp.loading import Loaded, load, most_image_tokens
from backends.llamacpp.native import Context, EmbeddingContext
from backends.llamacpp.options import WorkerOptions
from backends.llamacpp.prefix_cache import PrefixCache
from backends.llamacpp.prompts import PromptBuilder
from backends.llamacpp.scheduler import Scheduler
from backends.llamacpp.speculation import Speculation
from backends.llamacpp.step_loop import StepLoop
from backends.llamacpp.step_stats import StepStats
from backends.llamacpp.vision import Vision

_Arguments = TypeVarTuple("_Arguments")


class TooBusy(Exception):
    """More requests wait than may."""


@dataclass(slots=True, eq=False)
class _Inbox:
    """Deltas of the generations of one request, in order, until somebody takes them."""

    deltas: deque[Delta] = field(default_factory=deque)
    arrived: asyncio.Event = field(default_factory=asyncio.Event)

    def put(self, delta: Delta) -> None:
        self.deltas.append(delta)
        self.arrived.set()

    async def take(self) -> Delta:
        while not self.deltas:
            self.arrived.clear()
            await self.arrived.wait()
        return self.deltas.popleft()


class LlamaEngine:
    """Owns the model from `start` to `close`. All methods belong to one event loop."""

    def __init__(self, options: WorkerOptions) -> None:
        self._options = options
        self._ids = itertools.count()
        self._inboxes: dict[int, _Inbox] = {}
        self._loaded: Loaded | None = None
        self._loop: StepLoop | None = None
        self._embedding: EmbeddingLoop | None = None
        self._n_embedding = 0
        self._prompts: PromptBuilder | None = None
        self._grammars: GrammarCompiler | None = None
        self.vision: Vision | None = None
        self.state = EngineState.STOPPED
        self.progress = 0.0
        self.failed = asyncio.Event()
        self.failure: EngineFailure | None = None

    async def start(self) -> None:
        """Load the model in a thread. Raises `EngineFailure`."""
        self.state = EngineState.STARTING
        try:
            loaded = await asyncio.to_thread(load, self._options, self._note_progress)
            template = await asyncio.to_thread(_read_template, self._options)
        except EngineFailure as failure:
            self._fail(failure)
            raise
        self._loaded = loaded
        self.vision = _vision(self._options, loaded)
        self._prompts = PromptBuilder(
            loaded.model, template=template, reasoning=self._options.reasoning_format, vision=self.vision
        )
        await self._prompts.start()
        self._grammars = GrammarCompiler(loaded.model)
        if isinstance(loaded.context, EmbeddingContext):
            self._embedding = self._start_embedding(loaded.context)
        else:
            await self._grammars.prepare()
            self._loop = self._start_loop(loaded, loaded.context)
        self.state = EngineState.READY

    def _start_loop(self, loaded: Loaded, context: Context) -> StepLoop:
        event_loop = asyncio.get_running_loop()
        cache = PrefixCache(
            context,
            n_seqs=self._options.n_parallel,
            n_cells=loaded.n_ctx_total,
            ram_budget_bytes=self._options.cache_ram_mib << 20,
        )
        scheduler = Scheduler(
            cache, n_ctx=loaded.n_ctx, n_batch=self._options.n_batch, n_score_rows=loaded.n_score_rows
        )
        loop = StepLoop(
            loaded.model,
            context,
            scheduler,
            deliver=lambda deltas: _call_soon(event_loop, self._dispatch, deltas),
            on_broken=lambda why: _call_soon(event_loop, self._fail, EngineFailure(FailureReason.CRASHED, why)),
            checks_cache=self._options.checks_cache,
            speculation=_speculation(loaded),
        )
        loop.start()
        return loop

    def _start_embedding(self, context: EmbeddingContext) -> EmbeddingLoop:
        event_loop = asyncio.get_running_loop()
        loop = EmbeddingLoop(
            context,
            n_batch=self._options.n_batch,
            on_broken=lambda why: _call_soon(event_loop, self._fail, EngineFailure(FailureReason.CRASHED, why)),
        )
        loop.start()
        return loop

    async def close(self) -> None:
        for loop in (self._loop, self._embedding):
            if loop is not None:
                await asyncio.to_thread(loop.stop)
        if self._prompts is not None:
            await self._prompts.close()
        if self._grammars is not None:
            await asyncio.to_thread(self._grammars.close)
        if self.vision is not None:
            await self.vision.close()
        if self._loaded is not None:
            self._loaded.context.close()
            self._loaded.model.close()
        self.state = EngineState.STOPPED

    @property
    def loaded(self) -> Loaded:
        if self._loaded is None:
            raise RuntimeError("the model is not loaded")
        return self._loaded

    @property
    def prompts(self) -> PromptBuilder:
        if self._prompts is None:
            raise RuntimeError("the model is not loaded")
        return self._prompts

    @property
    def embedding(self) -> EmbeddingLoop | None:
        """What embeds texts; None for a model that generates them."""
        return self._embedding

    @property
    def grammars(self) -> GrammarCompiler:
        if self._grammars is None:
            raise RuntimeError("the model is not loaded")
        return self._grammars

    @property
    def stats(self) -> StepStats:
        loop = self._loop or self._embedding
        return loop.stats if loop is not None else StepStats()

    async def embed(self, texts: Sequence[Sequence[int]]) -> list[Vector]:
        """Vectors of texts given in tokens. Raises `TooBusy` and `EmbeddingFailed`."""
        if self._embedding is None:
            raise RuntimeError("the model does not embed")
        if self._n_embedding >= self._options.max_waiting:
            raise TooBusy
        self._n_embedding += 1
        try:
            return await self._embedding.embed(texts)
        finally:
            self._n_embedding -= 1

    async def generate(self, generations: Sequence[Generation]) -> AsyncGenerator[tuple[int, Delta]]:
        """Run several generations; yields (its position, delta) as they come, until all have ended.

        Closing the generator early frees their sequences before the next step. Raises `TooBusy`.
        """
        if self._loop is None:
            raise RuntimeError("the model is not loaded")
        if len(self._inboxes) + len(generations) > self._options.n_parallel + self._options.max_waiting:
            raise TooBusy
        inbox = _Inbox()
        index_of = {next(self._ids): i for i in range(len(generations))}
        for generation_id, generation in zip(index_of, generations, strict=True):
            self._inboxes[generation_id] = inbox
            self._loop.submit(generation_id, generation)
        try:
            while index_of:
                delta = await inbox.take()
                index = index_of[delta.generation_id]
                if delta.finish is not None:
                    del index_of[delta.generation_id], self._inboxes[delta.generation_id]
                yield index, delta
        finally:
            for generation_id in index_of:
                del self._inboxes[generation_id]
                self._loop.cancel(generation_id)

    def _dispatch(self, deltas: list[Delta]) -> None:
        for delta in deltas:
            inbox = self._inboxes.get(delta.generation_id)
            if inbox is not None:
                inbox.put(delta)

    def _note_progress(self, fraction: float) -> None:
        self.progress = fraction

    def _fail(self, failure: EngineFailure) -> None:
        self.state = EngineState.FAILED
        self.failure = failure
        self.failed.set()


def _speculation(loaded: Loaded) -> Speculation | None:
    if not loaded.n_draft_rows or not isinstance(loaded.context, Context):
        return None
    return Speculation(loaded.n_draft_rows, loaded.n_ctx, loaded.context.shares_cells)


def _call_soon(
    event_loop: asyncio.AbstractEventLoop,
    callback: Callable[[*_Arguments], object],
    *arguments: *_Arguments,
) -> None:
    """From the step thread; an event loop that has closed meanwhile has nobody left to tell."""
    if not event_loop.is_closed():
        event_loop.call_soon_threadsafe(callback, *arguments)


def _vision(options: WorkerOptions, loaded: Loaded) -> Vision | None:
    if loaded.encoder is None:
        return None
    return Vision(
        loaded.encoder,
        options.image_limits,
        ImageFetcher(options.image_hosts, options.image_limits, allow_private=options.private_image_hosts),
        max_tokens=most_image_tokens(options),
        cache_bytes=options.image_cache_bytes,
    )


def _read_template(options: WorkerOptions) -> str | None:
    if options.chat_template_file is None:
        return None
    try:
        return options.chat_template_file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise EngineFailure(FailureReason.INVALID_SETTINGS, f"the chat template cannot be read: {error}") from error
