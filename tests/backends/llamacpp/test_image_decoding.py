from __future__ import annotations

import contextlib
import struct
import zlib
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from backends.llamacpp.image_decoding import ImageError, ImageLimits, decode
from tests.backends.llamacpp.pictures import file_of, noise

LIMITS = ImageLimits(max_pixels=10_000)


def refusal(data: bytes, limits: ImageLimits = LIMITS) -> str:
    with pytest.raises(ImageError) as refused:
        decode(data, limits)
    return refused.value.code


def png_that_claims(width: int, height: int) -> bytes:
    """A header, and of the pixels next to nothing."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0" * 99)) + chunk(b"IEND", b"")
    )


@pytest.mark.parametrize(("format_", "options"), [("PNG", {}), ("WEBP", {"lossless": True}), ("JPEG", {"quality": 99})])
def test_formats_that_are_taken_come_out_as_they_went_in(format_: str, options: dict[str, int]) -> None:
    image = noise(1, 20, 10).resize((40, 20))
    pixels = decode(file_of(image, format_, **options), LIMITS)
    assert (pixels.width, pixels.height, len(pixels.rgb)) == (40, 20, 2400)
    if format_ != "JPEG":
        assert pixels.rgb == image.tobytes()


@pytest.mark.parametrize("format_", ["GIF", "BMP", "TIFF", "ICO", "PPM", "TGA"])
def test_other_formats_are_not_even_looked_at(format_: str) -> None:
    assert refusal(file_of(noise(1, 16, 16), format_)) == "unsupported_image"


@pytest.mark.parametrize("size", [(101, 100), (60_000, 60_000), (2**31 - 1, 2**31 - 1)])
def test_size_is_judged_by_what_the_file_claims(size: tuple[int, int]) -> None:
    assert refusal(png_that_claims(*size)) == "image_too_large"


@pytest.mark.parametrize("size", [(101, 1), (1, 1000)])
def test_a_ribbon_is_no_picture(size: tuple[int, int]) -> None:
    assert refusal(file_of(Image.new("RGB", size))) == "unsupported_image"


@pytest.mark.parametrize("format_", ["PNG", "JPEG", "WEBP"])
def test_half_a_file_is_damaged(format_: str) -> None:
    data = file_of(noise(1), format_)
    assert refusal(data[: len(data) // 2]) == "unsupported_image"
    assert refusal(data[:20]) == "unsupported_image"


def test_a_photograph_stands_upright() -> None:
    image = Image.new("RGB", (30, 20))
    exif = Image.Exif()
    exif[0x0112] = 6  # turn it by a quarter
    pixels = decode(file_of(image, "JPEG", exif=exif), LIMITS)
    assert (pixels.width, pixels.height) == (20, 30)


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_what_is_transparent_is_white(mode: str) -> None:
    image = Image.new("RGBA", (2, 1), (255, 0, 0, 0))
    image.putpixel((1, 0), (0, 0, 0, 255))
    data = file_of(image.convert(mode)) if mode != "P" else file_of(image.convert("P"), transparency=0)
    pixels = decode(data, LIMITS)
    assert pixels.rgb[:3] == b"\xff\xff\xff" or mode == "P"
    assert len(pixels.rgb) == 6


@pytest.mark.parametrize(("mode", "white"), [("L", 255), ("1", 1), ("I;16", 65535), ("CMYK", (0, 0, 0, 0))])
def test_every_kind_of_pixel_becomes_three_bytes(mode: str, white: int) -> None:
    format_ = "JPEG" if mode == "CMYK" else "PNG"
    pixels = decode(file_of(Image.new(mode, (8, 8), white), format_), LIMITS)
    assert set(pixels.rgb) == {255}


@settings(max_examples=60, deadline=None)
@given(place=st.integers(0, 2000), byte=st.integers(0, 255), format_=st.sampled_from(["PNG", "JPEG", "WEBP"]))
def test_a_flipped_byte_is_an_image_or_a_refusal(place: int, byte: int, format_: str) -> None:
    data = bytearray(file_of(noise(1, 24, 16), format_))
    data[place % len(data)] = byte
    with contextlib.suppress(ImageError):
        assert decode(bytes(data), LIMITS).width > 0


@settings(max_examples=40, deadline=None)
@given(st.binary(max_size=200))
def test_noise_is_no_image(data: bytes) -> None:
    assert refusal(data, replace(LIMITS, max_pixels=10**6)) == "unsupported_image"
