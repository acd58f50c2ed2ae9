"""Pictures of invented temperature charts, drawn anew for each seed, as data URLs."""

from __future__ import annotations

import base64
import io
import random
from typing import Final, Literal

from PIL import Image, ImageDraw

Kind = Literal["png", "jpeg"]
_MARGIN: Final = 0.08
_N_DAYS: Final = 14


def data_url(seed: str, *, width: int, height: int, kind: Kind = "png") -> str:
    encoded = io.BytesIO()
    chart(seed, width, height).save(encoded, format=kind.upper())
    return f"data:image/{kind};base64,{base64.b64encode(encoded.getvalue()).decode()}"


def chart(seed: str, width: int, height: int) -> Image.Image:
    """A curve over a grid of days and degrees; no two seeds give the same pixels, as good as never."""
    rng = random.Random(seed)
    image = Image.new("RGB", (width, height), tuple(rng.randrange(230, 256) for _ in range(3)))
    draw = ImageDraw.Draw(image)
    left, top, right, bottom = (width * _MARGIN, height * _MARGIN, width * (1 - _MARGIN), height * (1 - _MARGIN))
    for day in range(_N_DAYS):
        x = left + (right - left) * day / (_N_DAYS - 1)
        draw.line((x, top, x, bottom), fill="lightgray")
        draw.text((x, bottom), str(day + 1), fill="black")
    points = [
        (left + (right - left) * day / (_N_DAYS - 1), top + (bottom - top) * rng.random()) for day in range(_N_DAYS)
    ]
    draw.line(points, fill="darkred", width=max(width // 200, 1))
    return image
