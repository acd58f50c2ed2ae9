from __future__ import annotations

import socket
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

import pytest
from aiohttp import web
from aiohttp.abc import ResolveResult
from aiohttp.resolver import ThreadedResolver

from backends.llamacpp import image_sources
from backends.llamacpp.image_decoding import ImageError, ImageLimits
from backends.llamacpp.image_sources import ImageFetcher, data_of, url_of

LIMITS = ImageLimits(max_bytes=1000)


@dataclass(slots=True)
class Host:
    """A host with images, on loopback; `asked` are the paths it was asked for."""

    port: int = 0
    asked: list[str] = field(default_factory=list)

    def url(self, path: str, name: str = "127.0.0.1") -> str:
        return f"http://{name}:{self.port}{path}"


@pytest.fixture
async def host() -> AsyncIterator[Host]:
    host = Host()

    async def answer(request: web.Request) -> web.Response:
        host.asked.append(request.path)
        match request.path:
            case "/image":
                return web.Response(body=b"an image")
            case "/large":
                return web.Response(body=b"x" * 1001)
            case "/moved":
                return web.Response(status=302, headers={"Location": "/image"})
            case "/away":
                return web.Response(status=302, headers={"Location": host.url("/image", "localhost")})
            case "/loop":
                return web.Response(status=307, headers={"Location": "/loop"})
            case _:
                return web.Response(status=404, text="secret")

    app = web.Application()
    app.router.add_get("/{any:.*}", answer)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    host.port = runner.addresses[0][1]
    yield host
    await runner.cleanup()


async def fetch(
    url: str, *, hosts: tuple[str, ...] = ("127.0.0.1", "localhost"), allow_private: bool = True
) -> bytes | str:
    """The image, or the code of the refusal."""
    fetcher = ImageFetcher(hosts, LIMITS, allow_private=allow_private)
    try:
        return await fetcher.fetch(url)
    except ImageError as refused:
        return "told a secret" if "secret" in str(refused) else refused.code
    finally:
        await fetcher.close()


async def test_an_image_comes_from_a_host_of_the_list(host: Host) -> None:
    assert await fetch(host.url("/image")) == b"an image"
    assert await fetch(host.url("/moved")) == b"an image"


async def test_nothing_comes_from_any_other(host: Host) -> None:
    assert await fetch(host.url("/image"), hosts=()) == "remote_image_refused"
    assert await fetch(host.url("/image"), hosts=("images.example",)) == "remote_image_refused"
    for url in ("ftp://127.0.0.1/image", "file:///etc/passwd", "//127.0.0.1/image", "http://[", "http://a@127.0.0.1/"):
        assert await fetch(url) == "remote_image_refused"
    assert host.asked == []


async def test_a_redirect_leads_to_no_other_host_and_not_in_circles(host: Host) -> None:
    assert await fetch(host.url("/away")) == "remote_image_refused"
    assert host.asked == ["/away"]
    assert await fetch(host.url("/loop")) == "image_not_fetched"
    assert host.asked == ["/away"] + ["/loop"] * 4


async def test_what_is_too_large_or_not_there_is_told_and_no_more(host: Host) -> None:
    assert await fetch(host.url("/large")) == "image_too_large"
    assert await fetch(host.url("/gone")) == "image_not_fetched"


@pytest.mark.parametrize(
    "name",
    ["127.0.0.1", "10.0.0.1", "169.254.169.254", "[::1]", "[::ffff:127.0.0.1]", "[fe80::1]", "0.0.0.0", "224.0.0.1"],
)
async def test_numbers_of_a_private_network_are_refused(name: str) -> None:
    host = name.strip("[]")
    assert await fetch(f"http://{name}:1/image", hosts=(host,), allow_private=False) == "remote_image_refused"


async def test_a_name_that_leads_into_a_private_network_is_refused(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    async def resolve(self: object, name: str, port: int = 0, family: object = None) -> list[ResolveResult]:
        found = ResolveResult(hostname=name, host="127.0.0.1", port=port, family=socket.AF_INET, proto=0, flags=0)
        return [found]

    monkeypatch.setattr(ThreadedResolver, "resolve", resolve)
    monkeypatch.setattr(image_sources, "DefaultResolver", ThreadedResolver)
    url = host.url("/image", "images.example")
    assert await fetch(url, hosts=("images.example",), allow_private=False) == "remote_image_refused"
    assert host.asked == []


def test_data_urls_hold_an_image_in_base64() -> None:
    assert data_of("data:image/png;base64,YWJj", LIMITS) == b"abc"
    assert data_of("DATA:image/png;charset=x;BASE64,YWJj", LIMITS) == b"abc"


@pytest.mark.parametrize(
    ("url", "code"),
    [
        ("data:", "unsupported_image"),
        ("data:image/png,abc", "unsupported_image"),
        ("data:text/html;base64,YWJj", "unsupported_image"),
        ("data:image/png;base64,YW Jj", "unsupported_image"),
        ("data:image/png;base64,YWJ", "unsupported_image"),
        ("data:image/png;base64,\u00e9", "unsupported_image"),
        ("data:image/png;base64," + "A" * 1400, "image_too_large"),
    ],
)
def test_other_data_urls_are_refused(url: str, code: str) -> None:
    with pytest.raises(ImageError) as refused:
        data_of(url, LIMITS)
    assert refused.value.code == code


@pytest.mark.parametrize(
    "part", [{}, {"image_url": None}, {"image_url": {"uri": "x"}}, {"image_url": 3}, {"image": []}]
)
def test_a_part_without_an_address_is_refused(part: dict[str, object]) -> None:
    with pytest.raises(ImageError):
        url_of(part)
