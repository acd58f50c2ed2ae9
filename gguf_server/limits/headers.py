"""What a client is told of its limits, in OpenAI's headers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final

from gguf_server.limits.meters import Kind, Reading

RATE_LIMIT_HEADERS: Final = {
    f"x-ratelimit-{what}-{kind}": meaning.format(kind=kind)
    for kind in Kind
    for what, meaning in (
        ("limit", "How many {kind} the nearest limit of this key allows; absent where it has none."),
        ("remaining", "How many {kind} it has left of that."),
        ("reset", "How long until all of that is free again, as in `6m0s`."),
    )
}


def rate_limit_headers(readings: Sequence[Reading]) -> dict[str, str]:
    """Of requests and of tokens those of the limit that is nearest."""
    headers = {}
    for kind in Kind:
        if of_kind := [reading for reading in readings if reading.meter.kind is kind]:
            nearest = min(of_kind, key=lambda reading: (reading.n_left, -reading.reset_s))
            headers[f"x-ratelimit-limit-{kind}"] = str(nearest.meter.limit)
            headers[f"x-ratelimit-remaining-{kind}"] = str(nearest.n_left)
            headers[f"x-ratelimit-reset-{kind}"] = duration(nearest.reset_s)
    return headers


def duration(seconds: float) -> str:
    """As OpenAI writes one (`12ms`, `1s`, `6m0s`, `23h59m1s`), rounded up."""
    if seconds <= 0:
        return "0s"
    if seconds < 1:
        return f"{math.ceil(1000 * seconds)}ms" if seconds <= 0.999 else "1s"
    minutes, rest_s = divmod(math.ceil(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours}h{minutes}m{rest_s}s"
    return f"{minutes}m{rest_s}s" if minutes else f"{rest_s}s"
