"""When something that failed is tried again, so that nobody waits for it in the meantime."""

from __future__ import annotations

from typing import Final

FIRST_PAUSE_S: Final = 1.0
LONGEST_PAUSE_S: Final = 30.0


class Breaker:
    """Closed while all is well. After a failure it is open for a pause, which doubles with each failure in a row; then
    one may try, and what comes of it decides. Times are seconds of any clock that is not set back.
    """

    def __init__(self) -> None:
        self.is_closed = True
        self._pause_s = FIRST_PAUSE_S
        self._next_at = 0.0

    def may_try(self, now_s: float) -> bool:
        """Asking is taking the turn: until it is over, others are told no."""
        if self.is_closed:
            return True
        if now_s < self._next_at:
            return False
        self._next_at = now_s + self._pause_s
        return True

    def succeeded(self) -> bool:
        """Whether that is news."""
        is_news = not self.is_closed
        self.is_closed = True
        self._pause_s = FIRST_PAUSE_S
        return is_news

    def failed(self, now_s: float) -> bool:
        """Whether that is news."""
        is_news = self.is_closed
        if not is_news:
            self._pause_s = min(2 * self._pause_s, LONGEST_PAUSE_S)
        self.is_closed = False
        self._next_at = now_s + self._pause_s
        return is_news
