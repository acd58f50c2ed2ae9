"""Images of requests: fetched, decoded, encoded once, and remembered.

Decoding has a thread of its own and so has the encoder: one image after another, beside the step thread. What an image
became is found again by the hash of its file, until newer ones need the room.
"""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from weakref import WeakValueDictionary

import numpy as np

from backends.llamacpp.image_decoding import ImageError, ImageLimits, Pixels, decode
from backends.llamacpp.image_runs import ImageTokens
from backends.llamacpp.image_sources import ImageFetcher, data_of
from backends.llamacpp.native import ImageEncoder, NativeError, PreparedImage

Part = list[int] | tuple[ImageTokens, list[int]]
"""Of an image in a prompt: tokens, or embeddings with the numbers that stand for them."""


@dataclass(frozen=True, slots=True, eq=False, weakref_slot=True)
class Picture:
    """An image as a prompt holds it. `key` is the hash of its file; what one is alive is shared by all who need it."""

    key: bytes
    parts: tuple[Part, ...]
    prepared: PreparedImage

    @property
    def images(self) -> list[ImageTokens]:
        return [part[0] for part in self.parts if isinstance(part, tuple)]

    @property
    def is_encoded(self) -> bool:
        return all(image.embeddings is not None for image in self.images)

    @property
    def n_bytes(self) -> int:
        return sum(image.embeddings.nbytes for image in self.images if image.embeddings is not None)


@dataclass(slots=True)
class VisionStats:
    """Counters since start. `n_encoded`: images the encoder was run for; `n_remembered`: those it need not be."""

    n_encoded: int = 0
    n_remembered: int = 0
    encode_s: float = 0.0


@dataclass(slots=True)
class _Job:
    """One run of the encoder and how many wait for it."""

    done: asyncio.Future[None]
    n_waiting: int = 0


@dataclass(slots=True)
class Vision:
    """Belongs to one event loop. `max_tokens`: of an image whose tokens have to be in one batch. To be closed."""

    encoder: ImageEncoder
    limits: ImageLimits
    fetcher: ImageFetcher
    max_tokens: int
    cache_bytes: int
    stats: VisionStats = field(default_factory=VisionStats)
    _alive: WeakValueDictionary[bytes, Picture] = field(default_factory=WeakValueDictionary)
    _kept: OrderedDict[bytes, Picture] = field(default_factory=OrderedDict)  # encoded ones, the latest used last
    _jobs: dict[bytes, _Job] = field(default_factory=dict)
    _decoding: ThreadPoolExecutor = field(default_factory=lambda: ThreadPoolExecutor(1, "image-decode"))
    _encoding: ThreadPoolExecutor = field(default_factory=lambda: ThreadPoolExecutor(1, "image-encode"))

    async def close(self) -> None:
        """Waits for the image that is being encoded."""
        await self.fetcher.close()
        for pool in (self._decoding, self._encoding):
            await asyncio.to_thread(pool.shutdown, cancel_futures=True)
        self.encoder.close()

    @property
    def n_encoding(self) -> int:
        """Images in the encoder or waiting for it, whose clients are still there."""
        return len(self._jobs)

    async def look_at(self, urls: Sequence[str]) -> list[Picture]:
        """What the images take in a prompt; the encoder has not run for it. Raises `ImageError`."""
        if len(urls) > self.limits.max_images:
            message = f"a request has at most {self.limits.max_images} images, this one has {len(urls)}"
            raise ImageError(message, code="too_many_images")
        return [await self._picture(url) for url in urls]

    async def encode(self, pictures: Iterable[Picture]) -> None:
        """Have the embeddings of all of them. Raises `NativeError`.

        Cancelled, it leaves out an image that nobody else waits for, unless that is being encoded already: it is kept.
        """
        for picture in pictures:
            if picture.is_encoded:
                self.stats.n_remembered += 1
                self._keep(picture)
            else:
                await self._wait_for(picture)

    async def _picture(self, url: str) -> Picture:
        loop = asyncio.get_running_loop()
        if url[:5].lower() == "data:":
            data = await loop.run_in_executor(self._decoding, data_of, url, self.limits)
        else:
            data = await self.fetcher.fetch(url)
        key = await loop.run_in_executor(self._decoding, _key_of, data)
        if (known := self._alive.get(key)) is not None:
            return known
        pixels = await loop.run_in_executor(self._decoding, decode, data, self.limits)
        try:
            picture = await loop.run_in_executor(self._encoding, self._prepare, key, pixels)
        except NativeError:
            raise ImageError("an image has a shape that this model cannot be given") from None
        if any(not image.is_causal and image.n_tokens > self.max_tokens for image in picture.images):
            raise ImageError(f"an image takes more than {self.max_tokens} tokens", code="image_too_large")
        return self._alive.setdefault(key, picture)  # another request may have been faster

    def _prepare(self, key: bytes, pixels: Pixels) -> Picture:
        prepared = self.encoder.prepare(pixels.rgb, pixels.width, pixels.height)
        parts: list[Part] = []
        for index, part in enumerate(prepared.parts):
            parts.append(part if isinstance(part, list) else (part, _stand_ins(key, index, part.n_tokens)))
        return Picture(key, tuple(parts), prepared)

    async def _wait_for(self, picture: Picture) -> None:
        job = self._jobs.get(picture.key)
        if job is None or job.done.done():
            job = self._jobs[picture.key] = self._begin(picture)
        job.n_waiting += 1
        try:
            await asyncio.shield(job.done)
        finally:
            job.n_waiting -= 1
            if job.n_waiting == 0:
                job.done.cancel()

    def _begin(self, picture: Picture) -> _Job:
        loop = asyncio.get_running_loop()
        job = _Job(loop.run_in_executor(self._encoding, self._encode, picture, loop))

        def forget(_done: asyncio.Future[None]) -> None:
            if self._jobs.get(picture.key) is job:
                del self._jobs[picture.key]

        job.done.add_done_callback(forget)
        return job

    def _encode(self, picture: Picture, loop: asyncio.AbstractEventLoop) -> None:
        if picture.is_encoded:  # by a run whose clients all left before it ended
            return
        started = time.perf_counter()
        self.encoder.encode(picture.prepared)
        self.stats.encode_s += time.perf_counter() - started
        self.stats.n_encoded += 1
        loop.call_soon_threadsafe(self._keep, picture)

    def _keep(self, picture: Picture) -> None:
        """Let the image outlive its request, and those go that were used longest ago, as far as there is no room."""
        self._kept[picture.key] = picture
        self._kept.move_to_end(picture.key)
        n_bytes = sum(kept.n_bytes for kept in self._kept.values())
        while n_bytes > self.cache_bytes and self._kept:
            n_bytes -= self._kept.popitem(last=False)[1].n_bytes


def _key_of(data: bytes) -> bytes:
    return hashlib.sha256(data).digest()


def _stand_ins(key: bytes, index: int, n_tokens: int) -> list[int]:
    """Negative numbers for the places of an image's part: the same for the same file, and hardly for another."""
    seed = key + index.to_bytes(2, "little")
    stream = hashlib.shake_256(seed).digest(4 * n_tokens)
    numbers: list[int] = (np.frombuffer(stream, np.int32) | np.int32(-(2**31))).tolist()
    return numbers
