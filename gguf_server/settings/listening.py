"""Settings of what faces the network: TLS, pages of other origins, and clients that dawdle or crowd.

Times are seconds.
"""

from __future__ import annotations

from ipaddress import IPv4Network, IPv6Network
from pathlib import Path
from typing import Annotated
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field, model_validator

from gguf_server.settings.base import Strict


class TlsSettings(Strict):
    """HTTPS on every listener. The files are read again when they change."""

    certificate: Path | None = Field(
        None, description="PEM file: the server's certificate, then those of the authorities between it and the root."
    )
    key: Path | None = Field(None, description="PEM file of the certificate's private key, without a passphrase.")
    client_ca: Path | None = Field(
        None, description="PEM file of authorities: only clients with a certificate of theirs are let in."
    )

    @model_validator(mode="after")
    def _pair_is_whole(self) -> TlsSettings:
        if (self.certificate is None) != (self.key is None):
            raise ValueError("give certificate and key, both or none")
        if self.client_ca is not None and self.certificate is None:
            raise ValueError("client_ca needs certificate and key")
        return self

    @property
    def is_on(self) -> bool:
        return self.certificate is not None


def _origin(text: str) -> str:
    """As browsers spell it."""
    parts = urlsplit(text)
    if text != "*" and (not parts.scheme or not parts.netloc or text != f"{parts.scheme}://{parts.netloc}"):
        raise ValueError("expected an origin such as https://chat.example.org, without a path, or *")
    return text.lower()


class CorsSettings(Strict):
    """Which pages of other origins a browser lets use this server. Without any, nothing is said of it."""

    origins: tuple[Annotated[str, AfterValidator(_origin)], ...] = Field(
        (), description='Origins, each SCHEME://HOST or SCHEME://HOST:PORT; "*" is all of them.'
    )
    max_age_s: int = Field(600, ge=0, description="A browser remembers so long what it was allowed.")


class ConnectionSettings(Strict):
    """How many connections there may be, and how slow a client may be."""

    max_connections: int = Field(1000, ge=1, description="In all, on every listener; one more is answered 503.")
    max_per_client: int = Field(
        100, ge=0, description="From one address, loopback and trusted_proxies aside; one more is answered 429. 0: any."
    )
    trusted_proxies: tuple[IPv4Network | IPv6Network, ...] = Field(
        (), description="Addresses or networks of reverse proxies. X-Forwarded-For is believed from them alone."
    )
    header_timeout_s: float = Field(
        15.0, gt=0, description="A request's headers, or a TLS handshake, not whole after so long: answered 408."
    )
    max_header_bytes: int = Field(
        8190, ge=1024, description="A longer request line or header is answered 431; so are more than 128 headers."
    )
    body_timeout_s: float = Field(
        30.0, gt=0, description="A body has so long, and what min_body_bytes_per_s gives it; then it is answered 408."
    )
    min_body_bytes_per_s: float = Field(
        4096.0, gt=0, description="Each so many bytes of a body that came give it another second."
    )
    write_timeout_s: float = Field(
        30.0, gt=0, description="A client that takes nothing of an answer for so long is cut off."
    )
    idle_timeout_s: float = Field(
        120.0, gt=0, description="A connection without a request is closed after so long. Longer than the proxy's own."
    )
