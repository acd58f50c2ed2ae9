"""What steers one answer while it is generated: a grammar, a limit to thinking, a call that has to be made.

A guide belongs to one sequence and lives on the step thread. What it costs is paid between two steps by everybody in
the batch: it compiles nothing and waits for nothing. `Generation.guides` make one of each for every choice.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import numpy as np
import numpy.typing as npt

Float32Array = npt.NDArray[np.float32]


class GuideError(Exception):
    """A guide cannot go on: its answer ends with an error, the others in the batch know nothing of it."""


class Guide(Protocol):
    """Asked before each token, told after it. Guides of one sequence are asked in their order.

    `forced`, `mask` and `accept` may raise `GuideError`.
    """

    @property
    def is_idle(self) -> bool:
        """Whether it has nothing to say about the next token: neither `forced` nor `mask` need be called."""
        ...

    @property
    def is_complete(self) -> bool:
        """Whether the answer ends here, as if the model had said its end-of-text token."""
        ...

    def forced(self) -> int | None:
        """The one token that has to come next, where there is just one: the model is not asked for it."""
        ...

    def mask(self, logits: Float32Array) -> None:
        """Put -inf in `logits` (float32[n_vocab]) wherever a token must not come. At least one must be left."""
        ...

    def accept(self, token: int, piece: bytes) -> None:
        """`token` has come; `piece` are its bytes, none where it is a control token that is not shown."""
        ...


MakeGuide = Callable[[], Guide]
"""A new guide for one choice of a request: at its beginning."""
