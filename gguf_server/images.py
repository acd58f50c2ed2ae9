"""What images a service takes from its clients."""

from __future__ import annotations

from urllib.parse import urlsplit

from backends.openai_schema import Message
from gguf_server.errors import BadRequest
from gguf_server.settings import ServiceSettings


def check(messages: list[Message], settings: ServiceSettings) -> None:
    """Images come inside the body: an engine that fetched an address would do it from inside the building.

    Only from hosts that the operator trusts are they fetched, by the engine. Raises `BadRequest`.
    """
    for message in messages:
        if not message.has_image:
            continue
        if not settings.images:
            raise BadRequest("this model takes text only, not images", param="messages", code="images_not_supported")
        for part in message.content if isinstance(message.content, list) else ():
            image = part.get("image_url")
            url = image.get("url") if isinstance(image, dict) else image
            if part.get("type") != "text" and not _may_be_given(str(url or ""), settings.image_hosts):
                raise BadRequest("an image has to be a data: URL", param="messages", code="remote_image_refused")


def _may_be_given(url: str, hosts: tuple[str, ...]) -> bool:
    if url.startswith("data:image/"):
        return True
    try:
        parts = urlsplit(url)
        host = parts.hostname or ""
    except ValueError:
        return False
    return parts.scheme in ("http", "https") and "@" not in parts.netloc and "\\" not in url and host in hosts
