"""Headers with which a browser treats every answer as what it is: data for one reader, no page and no part of one.

What a handler has set stays: a page has a Content-Security-Policy of its own.
"""

from __future__ import annotations

from typing import Final

from aiohttp import web

_HEADERS: Final = (
    ("X-Content-Type-Options", "nosniff"),
    ("X-Frame-Options", "DENY"),
    ("Referrer-Policy", "no-referrer"),
    ("Content-Security-Policy", "default-src 'none'; frame-ancestors 'none'"),
    ("Cross-Origin-Resource-Policy", "same-origin"),
    ("Cache-Control", "no-store"),
)
_SERVER: Final = "gguf-server"
_ONLY_HTTPS: Final = "max-age=31536000"


def add_security_headers(response: web.StreamResponse, *, is_https: bool) -> None:
    headers = response.headers
    for name, value in _HEADERS:
        headers.setdefault(name, value)
    headers["Server"] = _SERVER  # without versions, for nobody to look up what is known of them
    if is_https:
        headers.setdefault("Strict-Transport-Security", _ONLY_HTTPS)
