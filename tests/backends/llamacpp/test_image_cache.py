"""Encoding once, for whoever waits; on an encoder that takes as long as the test lets it."""

from __future__ import annotations

import asyncio
import gc
import threading
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import cast

import numpy as np
import pytest

from backends.llamacpp.image_decoding import ImageError, ImageLimits
from backends.llamacpp.image_runs import ImageTokens
from backends.llamacpp.image_sources import ImageFetcher
from backends.llamacpp.native import ImageEncoder, NativeError, PreparedImage
from backends.llamacpp.vision import Picture, Vision
from tests.backends.llamacpp.pictures import png

N_TOKENS, N_EMBD = 4, 8
LIMITS = ImageLimits(max_images=3)


@dataclass(slots=True)
class FakePrepared:
    parts: tuple[list[int] | ImageTokens, ...]


@dataclass(slots=True)
class FakeEncoder:
    """`may_go` is waited for before each image; `width` of an image decides what goes wrong with it."""

    may_go: threading.Event = field(default_factory=threading.Event)
    began: threading.Semaphore = field(default_factory=lambda: threading.Semaphore(0))
    n_encoded: int = 0

    def prepare(self, rgb: bytes, width: int, height: int) -> FakePrepared:
        if width == 1:
            raise NativeError("too small")
        places = np.arange(N_TOKENS, dtype=np.int32)[None]
        n_tokens = width if width >= 100 else N_TOKENS
        image = ImageTokens(n_tokens, n_tokens, is_causal=False, origin=places, step=np.ones_like(places))
        return FakePrepared(([1, 2], image, [3]))

    def encode(self, prepared: FakePrepared) -> None:
        self.began.release()
        assert self.may_go.wait(5)
        self.n_encoded += 1
        for part in prepared.parts:
            if isinstance(part, ImageTokens):
                part.embeddings = np.zeros((N_TOKENS, N_EMBD), np.float32)

    def close(self) -> None:
        pass


@pytest.fixture
def encoder() -> FakeEncoder:
    return FakeEncoder()


@pytest.fixture
async def vision(encoder: FakeEncoder) -> AsyncIterator[Vision]:
    """Room for two encoded images."""
    fetcher = ImageFetcher((), LIMITS, allow_private=False)
    n_bytes = 2 * N_TOKENS * N_EMBD * 4
    vision = Vision(cast(ImageEncoder, encoder), LIMITS, fetcher, max_tokens=64, cache_bytes=n_bytes)
    yield vision
    encoder.may_go.set()
    await vision.close()


async def look_at(vision: Vision, seed: int) -> Picture:
    (picture,) = await vision.look_at([png(seed)])
    return picture


async def began(encoder: FakeEncoder) -> None:
    assert await asyncio.to_thread(encoder.began.acquire, timeout=5)


async def refusal(vision: Vision, *urls: str) -> str:
    with pytest.raises(ImageError) as refused:
        await vision.look_at(urls)
    return refused.value.code


async def test_numbers_that_stand_for_an_image_are_made_of_its_content(vision: Vision) -> None:
    first, same, other = [await look_at(vision, seed) for seed in (1, 1, 2)]
    assert first is same
    assert (first.parts[0], first.parts[2]) == ([1, 2], [3])
    (image, numbers), (_, others) = [
        part for picture in (first, other) for part in picture.parts if type(part) is tuple
    ]
    assert len(numbers) == image.n_tokens == N_TOKENS
    assert all(-(2**31) <= number < 0 for number in numbers)
    assert not set(numbers) & set(others)


async def test_requests_that_come_together_share_one_run(vision: Vision, encoder: FakeEncoder) -> None:
    pictures = [await look_at(vision, 1) for _ in range(3)]
    waiting = [asyncio.create_task(vision.encode([picture])) for picture in pictures]
    await began(encoder)
    encoder.may_go.set()
    await asyncio.gather(*waiting)
    assert encoder.n_encoded == vision.stats.n_encoded == 1


async def test_one_that_leaves_takes_nothing_from_others(vision: Vision, encoder: FakeEncoder) -> None:
    picture = await look_at(vision, 1)
    leaving, staying = [asyncio.create_task(vision.encode([picture])) for _ in range(2)]
    await began(encoder)
    leaving.cancel()
    encoder.may_go.set()
    await staying
    assert leaving.cancelled()
    assert picture.is_encoded


async def test_an_image_nobody_waits_for_any_more_is_not_begun(vision: Vision, encoder: FakeEncoder) -> None:
    pictures = [await look_at(vision, seed) for seed in (1, 2, 3)]
    tasks = [asyncio.create_task(vision.encode([picture])) for picture in pictures]
    await began(encoder)
    assert vision.n_encoding == 3
    tasks[1].cancel()
    await asyncio.gather(tasks[1], return_exceptions=True)
    encoder.may_go.set()
    await asyncio.gather(tasks[0], tasks[2])
    assert [picture.is_encoded for picture in pictures] == [True, False, True]
    assert vision.n_encoding == 0


async def test_one_that_was_begun_for_somebody_who_left_is_kept_for_who_comes(
    vision: Vision, encoder: FakeEncoder
) -> None:
    leaving = asyncio.create_task(vision.encode([await look_at(vision, 1)]))
    await began(encoder)
    leaving.cancel()
    await asyncio.gather(leaving, return_exceptions=True)
    encoder.may_go.set()
    await vision.encode([await look_at(vision, 1)])
    assert encoder.n_encoded == 1


async def test_images_used_longest_ago_are_forgotten_first(vision: Vision, encoder: FakeEncoder) -> None:
    encoder.may_go.set()
    for seed in (1, 2, 1, 3, 1):  # 3 takes the room of 2
        await vision.encode([await look_at(vision, seed)])
    assert (vision.stats.n_encoded, vision.stats.n_remembered) == (3, 2)
    gc.collect()
    await vision.encode([await look_at(vision, 2)])
    assert vision.stats.n_encoded == 4


async def test_what_cannot_be_taken_is_refused_before_it_is_encoded(vision: Vision, encoder: FakeEncoder) -> None:
    assert await refusal(vision, *[png(1)] * 4) == "too_many_images"
    assert await refusal(vision, "https://images.example/a.png") == "remote_image_refused"
    assert await refusal(vision, png(1, width=1)) == "unsupported_image"
    assert await refusal(vision, png(1, width=100)) == "image_too_large"
    assert encoder.n_encoded == 0


def test_fake_and_real_are_spelt_alike() -> None:
    assert {"prepare", "encode", "close"} <= set(dir(ImageEncoder))
    assert PreparedImage.__init__.__annotations__["parts"] == "tuple[list[int] | ImageTokens, ...]"
