"""Where the bytes of an image come from: the request itself, or a host that the operator trusts.

An address is fetched from inside the building, so whoever sends one could look around there. Only hosts of the list are
asked, only over http(s), and one that turns out to be in a private network only where that is allowed as well: names
are resolved once, judged, and connected to as judged. A redirect leads no further than the same host.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import ipaddress
import socket
from typing import Any, Final

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult
from aiohttp.resolver import DefaultResolver
from yarl import URL

from backends.llamacpp.image_decoding import ImageError, ImageLimits

FETCH_TIMEOUT_S: Final = 10.0
MAX_REDIRECTS: Final = 3
_REDIRECTS: Final = (301, 302, 303, 307, 308)


def url_of(part: dict[str, Any]) -> str:
    """The address in a part of a message that is an image. Raises `ImageError`."""
    image = part.get("image_url") or part.get("image")
    url = image.get("url") if isinstance(image, dict) else image
    if not isinstance(url, str) or not url:
        raise ImageError("an image needs a data: URL in `image_url`")
    return url


def data_of(url: str, limits: ImageLimits) -> bytes:
    """The bytes in a data: URL; what they are is found out when they are decoded. Raises `ImageError`."""
    head, comma, encoded = url.partition(",")
    if not comma or not head.lower().startswith("data:image/") or not head.lower().endswith(";base64"):
        raise ImageError("an image has to be a data: URL of an image in base64")
    if len(encoded) * 3 // 4 > limits.max_bytes + 2:
        raise _too_large(limits)
    try:
        return base64.b64decode(encoded, validate=True)
    except (binascii.Error, ValueError):
        raise ImageError("an image is damaged: its data: URL is not base64") from None


class ImageFetcher:
    """Fetches images from `hosts` and from nowhere else; none: every address is refused. To be closed."""

    def __init__(self, hosts: tuple[str, ...], limits: ImageLimits, *, allow_private: bool) -> None:
        self._hosts = frozenset(host.lower().rstrip(".") for host in hosts)
        self._limits = limits
        self._allow_private = allow_private
        self._session: aiohttp.ClientSession | None = None

    async def close(self) -> None:
        if self._session is not None:
            await self._session.close()
            self._session = None

    async def fetch(self, address: str) -> bytes:
        """Raises `ImageError`, whose message never says what was found there."""
        url = self._allowed(address)
        try:
            async with asyncio.timeout(FETCH_TIMEOUT_S):
                for _ in range(MAX_REDIRECTS + 1):
                    found = await self._get(url)
                    if isinstance(found, bytes):
                        return found
                    if found.host != url.host:
                        raise _refused("an image's address leads to another host")
                    url = self._allowed(str(found))
        except (aiohttp.ClientError, OSError, ValueError, TimeoutError):
            pass
        raise ImageError("an image could not be fetched", code="image_not_fetched")

    def _allowed(self, address: str) -> URL:
        try:
            url = URL(address)
            host = (url.host or "").lower().rstrip(".")
        except ValueError:
            raise _refused("an image has to be a data: URL") from None
        if url.scheme not in ("http", "https") or host not in self._hosts or url.user or url.password:
            raise _refused("an image has to be a data: URL, or come from a host that is allowed here")
        if not self._allow_private and _is_inside(host):
            raise _refused("an image's address is inside a private network")
        return url

    async def _get(self, url: URL) -> bytes | URL:
        """The image, or where it is said to be."""
        if self._session is None:
            resolver = None if self._allow_private else _PublicResolver()
            connector = aiohttp.TCPConnector(resolver=resolver, limit=16)
            self._session = aiohttp.ClientSession(connector=connector, cookie_jar=aiohttp.DummyCookieJar())
        async with self._session.get(url, allow_redirects=False, headers={"Accept": "image/*"}) as response:
            if response.status in _REDIRECTS:
                return url.join(URL(response.headers.get("Location", "")))
            response.raise_for_status()
            data = bytearray()
            async for chunk in response.content.iter_chunked(1 << 16):
                data += chunk
                if len(data) > self._limits.max_bytes:
                    raise _too_large(self._limits)
            return bytes(data)


class _PublicResolver(AbstractResolver):
    """Finds only addresses that anybody on the internet could reach."""

    def __init__(self) -> None:
        self._resolver = DefaultResolver()

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        found = await self._resolver.resolve(host, port, family)
        if any(_is_inside(result["host"]) for result in found):
            raise _refused("an image's address is inside a private network")
        return found

    async def close(self) -> None:
        await self._resolver.close()


def _is_inside(host: str) -> bool:
    """Whether `host` is a number that does not lead out; a name does not say."""
    try:
        address = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return False
    mapped = getattr(address, "ipv4_mapped", None) or getattr(address, "sixtofour", None)
    return not address.is_global or address.is_multicast or (mapped is not None and not mapped.is_global)


def _refused(message: str) -> ImageError:
    return ImageError(message, code="remote_image_refused")


def _too_large(limits: ImageLimits) -> ImageError:
    return ImageError(f"an image has more than {limits.max_bytes} bytes", code="image_too_large")
