"""Images of noise, and messages that hold them."""

from __future__ import annotations

import base64
import io
from typing import Any

import numpy as np
from PIL import Image


def noise(seed: int, width: int = 96, height: int = 64) -> Image.Image:
    pixels = np.random.default_rng(seed).integers(0, 255, (height, width, 3), np.uint8)
    return Image.fromarray(pixels)


def file_of(image: Image.Image, format_: str = "PNG", **options: Any) -> bytes:
    out = io.BytesIO()
    image.save(out, format_, **options)
    return out.getvalue()


def url_of(data: bytes, kind: str = "png") -> str:
    return f"data:image/{kind};base64,{base64.b64encode(data).decode()}"


def png(seed: int, width: int = 96, height: int = 64) -> str:
    return url_of(file_of(noise(seed, width, height)))


def asks(*parts: str) -> dict[str, Any]:
    """A user's message; what begins as a data: URL does, or an address, is an image."""
    return {"role": "user", "content": [_part(part) for part in parts]}


def _part(part: str) -> dict[str, Any]:
    if part.startswith(("data:", "http")):
        return {"type": "image_url", "image_url": {"url": part}}
    return {"type": "text", "text": part}
