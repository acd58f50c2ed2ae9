"""What has to be done to llama.cpp's memory, and what can be: the seam between deciding and doing."""

from __future__ import annotations

from typing import Protocol

import numpy as np
import numpy.typing as npt

State = npt.NDArray[np.uint8]
"""Everything that a sequence has in memory, as llama.cpp writes it."""


class Cells(Protocol):
    """The memory of one context, by `seq_id`.

    A call is done when it returns. One that is refused (False, None) leaves nothing of the sequence it was to fill.
    """

    @property
    def shares_cells(self) -> bool:
        """One pool for all; else a stream for each sequence."""
        ...

    @property
    def forks_share_cells(self) -> bool:
        """Whether a fork takes no cells: else it is a copy."""
        ...

    @property
    def cuts_anywhere(self) -> bool:
        """Whether any beginning of a sequence can be kept. Not so with a recurrent state or a sliding window."""
        ...

    def n_tokens(self, seq_id: int) -> int: ...

    def can_keep(self, seq_id: int, n_tokens: int) -> bool: ...

    def keep_prefix(self, seq_id: int, n_tokens: int) -> bool: ...

    def can_fork(self, source: int, n_tokens: int) -> bool: ...

    def fork(self, source: int, target: int, n_tokens: int) -> bool:
        """The target holds nothing before."""
        ...

    def forget(self, seq_id: int) -> None: ...

    def state_size(self, seq_id: int) -> int:
        """Bytes that `save` will take."""
        ...

    def save(self, seq_id: int) -> State | None: ...

    def restore(self, seq_id: int, state: State) -> bool:
        """The sequence holds nothing before."""
        ...
