"""One answer while it is made: what a chosen token adds to it, and whether it was the last."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Self

from backends.llamacpp.detokenizer import TextStream
from backends.llamacpp.generation import Delta, Finish, Generation
from backends.llamacpp.healing import Seam
from backends.llamacpp.logprobs import Float32Array, RatedToken, rate
from backends.llamacpp.native import Model
from backends.llamacpp.sampling import Sampler
from backends.llamacpp.sequence import Sequence
from backends.llamacpp.thought import Thought


@dataclass(slots=True, eq=False)
class Answer:
    """Lives on the step thread. `n_ctx`: tokens that prompt and answer may have together."""

    generation_id: int
    generation: Generation
    model: Model
    n_ctx: int
    sampler: Sampler
    text: TextStream
    sequence: Sequence
    thought: Thought | None
    rated_prompt: list[RatedToken] = field(default_factory=list)

    @classmethod
    def begin(cls, generation_id: int, generation: Generation, model: Model, n_ctx: int) -> Self:
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
            model.eog_tokens,
            said_tokens=prompt[n_before:],
            seam=seam,
            guides=[*([thought] if thought is not None else []), *(make() for make in generation.guides)],
        )
        text = TextStream(generation.stops, shows_stop=generation.shows_stop)
        return cls(generation_id, generation, model, n_ctx, sampler, text, sequence, thought)

    @property
    def is_rated(self) -> bool:
        """Whether its next token is to be rated: what a seam has said again was rated before."""
        return self.generation.n_logprobs is not None and self.sampler.seam is None

    def take(self, token: int, logits: Float32Array | None) -> Delta:
        """The answer's next token. `logits`: of the model, unchanged, to rate it by."""
        sequence, generation, thought = self.sequence, self.generation, self.thought
        sequence.tokens.append(token)
        n_reasoning = thought.n_tokens if thought is not None else 0
        piece = self.model.piece(token)
        self.sampler.accept(token, piece)
        if (failure := self.sampler.failure) is not None:
            return Delta(self.generation_id, "", sequence.n_generated_tokens, Finish.ERROR, failure=failure)
        if (seam := self.sampler.seam) is not None:
            piece = self._repeat(seam, piece)
            if thought is not None:
                thought.read(piece)
        elif generation.shows_control and not piece:
            piece = self.model.spelling(token)
        is_thought = thought is not None and thought.n_tokens > n_reasoning
        rated = () if logits is None else (rate(logits, token, generation.n_logprobs or 0, is_thought=is_thought),)
        text, finish = self._show(token, piece)
        return Delta(
            self.generation_id,
            text,
            sequence.n_generated_tokens,
            finish,
            sequence.n_reused_tokens,
            thought.n_tokens if thought is not None else 0,
            rated,
            self._take_rated_prompt() if self.rated_prompt else (),
        )

    def end_scored(self) -> Delta:
        """Nothing is to be generated: the answer ends with its prompt."""
        return Delta(self.generation_id, "", 0, Finish.LENGTH, rated_prompt=self._take_rated_prompt())

    def fail(self) -> Delta:
        """The engine could not go on with it."""
        return Delta(self.generation_id, "", self.sequence.n_generated_tokens, Finish.ERROR)

    def _show(self, token: int, piece: bytes) -> tuple[str, Finish | None]:
        """The text that a token makes certain, and how the answer ended if it did."""
        sequence, generation = self.sequence, self.generation
        n_generated = sequence.n_generated_tokens
        if self._ends(token):
            text = self.text.push(piece, may_stop=False) if generation.shows_stop else ""
            return text + self.text.finish(), Finish.STOP
        min_tokens = generation.sampling.min_tokens
        text = self.text.push(piece, may_stop=min_tokens == 0 or n_generated > min_tokens)
        if self.text.stopped:
            return text, Finish.STOP
        if self.sampler.is_complete:
            return text + self.text.finish(), Finish.STOP
        if n_generated >= sequence.max_tokens or len(sequence.tokens) >= self.n_ctx:
            return text + self.text.finish(), Finish.LENGTH
        return text, None

    def _ends(self, token: int) -> bool:
        sampling = self.generation.sampling
        return (token in self.model.eog_tokens and not sampling.ignore_eos) or token in sampling.stop_token_ids

    def _repeat(self, seam: Seam, piece: bytes) -> bytes:
        """A token that says the answer's beginning again: what of it is new. The seam ends where all is said."""
        self.sequence.n_repeated_tokens += 1
        new = seam.take(piece)
        if not seam.rest:
            self.sampler.seam = None
        return new

    def _take_rated_prompt(self) -> tuple[RatedToken, ...]:
        rated, self.rated_prompt = tuple(self.rated_prompt), []
        return rated
