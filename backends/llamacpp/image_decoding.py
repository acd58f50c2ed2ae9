"""From the bytes of an image file to pixels: of few formats, and of no more than the limits allow."""

from __future__ import annotations

import io
import struct
import warnings
import zlib
from dataclasses import dataclass
from typing import Final

from PIL import Image, ImageOps, UnidentifiedImageError

FORMATS: Final = ("PNG", "JPEG", "WEBP")
MAX_ASPECT: Final = 100
"""So much longer than wide an image may be, or wider than long. Encoders are not made for more; some give up in C."""

# What Pillow would only warn of is an error here: an image of more pixels than that is refused either way.
warnings.simplefilter("error", Image.DecompressionBombWarning)


class ImageError(Exception):
    """An image that cannot be taken. The message is for whoever sent it, `code` for their program."""

    def __init__(self, message: str, *, code: str = "unsupported_image") -> None:
        super().__init__(message)
        self.code = code


@dataclass(frozen=True, slots=True)
class ImageLimits:
    """`max_bytes` and `max_pixels` of one image, `max_images` of a request."""

    max_images: int = 8
    max_bytes: int = 20 << 20
    max_pixels: int = 32_000_000


@dataclass(frozen=True, slots=True)
class Pixels:
    """Three bytes for each pixel, row by row."""

    rgb: bytes
    width: int
    height: int


def decode(data: bytes, limits: ImageLimits) -> Pixels:
    """Upright and without transparency, which becomes white. Blocks. Raises `ImageError`.

    The first picture of several is taken. Nothing is decompressed before the size that the file claims is known to be
    within the limits.
    """
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            if image.width * image.height > limits.max_pixels:
                raise _too_many_pixels(limits)
            if max(image.size) > MAX_ASPECT * min(image.size):
                raise ImageError(f"an image is more than {MAX_ASPECT} times as long as it is wide")
            flat = _flattened(ImageOps.exif_transpose(image))
            return Pixels(flat.tobytes(), flat.width, flat.height)
    except UnidentifiedImageError:
        raise ImageError("an image has to be a PNG, JPEG or WebP file") from None
    except (Image.DecompressionBombWarning, Image.DecompressionBombError):
        raise _too_many_pixels(limits) from None
    except (OSError, SyntaxError, ValueError, EOFError, IndexError, KeyError, TypeError, struct.error, zlib.error):
        raise ImageError("an image is damaged: it cannot be decoded") from None


def _too_many_pixels(limits: ImageLimits) -> ImageError:
    return ImageError(f"an image has more than {limits.max_pixels} pixels", code="image_too_large")


def _flattened(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I"):  # 16 bits of grey
        return image.point(lambda value: value / 256).convert("L").convert("RGB")
    if image.has_transparency_data:
        opaque = Image.new("RGBA", image.size, "white")
        return Image.alpha_composite(opaque, image.convert("RGBA")).convert("RGB")
    return image.convert("RGB")
