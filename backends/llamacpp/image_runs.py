"""Where a prompt's images are among its tokens.

An image takes as many places as it has embeddings. What stands there are negative numbers made of its content, the
same for the same image, so that prompts are compared as lists of numbers whether they hold images or not. They are
computed from embeddings, in batches of their own.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Int32Array = npt.NDArray[np.int32]
Float32Array = npt.NDArray[np.float32]


@dataclass(slots=True, eq=False)
class ImageTokens:
    """An image, or a part of one, as the language model is given it.

    `embeddings`: float32[n_tokens, n_embd], None until they are computed. The token at place i of an image that begins
    at position p is at `origin[:, i] + p * step[:, i]`, each int32[n_dims, n_tokens], one dimension for most models.
    Behind the image positions go on `n_positions` further. Unless `is_causal` its tokens look at each other, and all
    of them have to be in one batch.
    """

    n_tokens: int
    n_positions: int
    is_causal: bool
    origin: Int32Array
    step: Int32Array
    embeddings: Float32Array | None = None

    def positions(self, first: int) -> Int32Array:
        """int32[n_dims, n_tokens] for an image whose first position this is."""
        return self.origin + np.int32(first) * self.step


@dataclass(frozen=True, slots=True)
class ImageRun:
    """`image` takes the places `start` to `end` of a prompt's tokens."""

    start: int
    image: ImageTokens

    @property
    def end(self) -> int:
        return self.start + self.image.n_tokens


def position_of(runs: Iterable[ImageRun], index: int) -> int:
    """Position of the token at `index`, which is in no image or the first of one."""
    return index + sum(run.image.n_positions - run.image.n_tokens for run in runs if run.end <= index)


def run_at(runs: Iterable[ImageRun], index: int) -> ImageRun | None:
    """The image that the token at `index` belongs to."""
    return next((run for run in runs if run.start <= index < run.end), None)


def n_text_tokens(runs: Iterable[ImageRun], index: int, n_tokens: int) -> int:
    """How many of the `n_tokens` tokens from `index` on come before the next image; none of them inside of one."""
    return min([n_tokens, *(max(run.start - index, 0) for run in runs if run.end > index)])
