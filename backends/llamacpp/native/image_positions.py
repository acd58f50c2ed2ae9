"""Which token of a sequence is at which position, where an image's positions are fewer than its tokens (M-RoPE).

Tokens of such an image share one position in time, and the text behind it goes on after as many as it is high or wide.
Sequences without one count both alike.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class _Image:
    """Computed so far: `n_tokens` from the token `start`, all at `position`. Text goes on `n_positions` further."""

    start: int
    position: int
    n_tokens: int
    n_positions: int

    @property
    def end(self) -> int:
        return self.start + self.n_tokens


class ImagePositions:
    """The images that are in the cells, by sequence, in order."""

    def __init__(self) -> None:
        self._images: dict[int, list[_Image]] = {}

    def __contains__(self, seq_id: int) -> bool:
        return bool(self._images.get(seq_id))

    def note(self, seq_id: int, position: int, n_tokens: int, n_positions: int) -> None:
        """The first `n_tokens` of the image at `position` were computed."""
        images = self._images.setdefault(seq_id, [])
        if images and images[-1].position == position:
            images.pop()
        start = position + sum(image.n_tokens - image.n_positions for image in images)
        images.append(_Image(start, position, n_tokens, n_positions))

    def position_of(self, seq_id: int, n_tokens: int) -> int:
        """Of the token behind the first `n_tokens`, which end in no image's middle."""
        before = (image for image in self._images.get(seq_id, ()) if image.end <= n_tokens)
        return n_tokens - sum(image.n_tokens - image.n_positions for image in before)

    def n_tokens(self, seq_id: int, last_position: int) -> int:
        """Tokens of a sequence whose last position this is; -1 for one that holds none."""
        images = self._images.get(seq_id, ())
        if images and images[-1].position == last_position:
            return images[-1].end
        return last_position + 1 + sum(image.n_tokens - image.n_positions for image in images)

    def truncate(self, seq_id: int, n_tokens: int) -> None:
        """Only the first `n_tokens` are left."""
        if seq_id in self._images:
            self._images[seq_id] = [image for image in self._images[seq_id] if image.end <= n_tokens]

    def copy(self, source: int, target: int) -> None:
        self._images[target] = list(self._images.get(source, ()))
