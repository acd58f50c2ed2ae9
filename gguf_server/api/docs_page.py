"""The description as a page: one file of HTML without scripts, of escaped text, with nothing from elsewhere."""

from __future__ import annotations

import base64
import hashlib
import re
from importlib.resources import files
from typing import Any, Final

import jinja2
from markupsafe import Markup, escape

from gguf_server.api.docs_view import view

_CODE: Final = re.compile(r"`([^`]+)`")


def _prose(text: str) -> Markup:
    """Text in which backticks mark code."""
    return Markup(_CODE.sub(r"<code>\1</code>", str(escape(text))))  # noqa: S704 - what is marked up is escaped


_HERE: Final = files("gguf_server.api")
_STYLE: Final = _HERE.joinpath("docs.css").read_text(encoding="utf-8")
_ENVIRONMENT: Final = jinja2.Environment(
    autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined
)
_ENVIRONMENT.filters["prose"] = _prose

CONTENT_SECURITY_POLICY: Final = (
    "default-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; style-src 'sha256-"
    f"{base64.b64encode(hashlib.sha256(_STYLE.encode()).digest()).decode()}'"
)
"""Nothing but the page's own style, which is told by its hash."""


def page(document: dict[str, Any]) -> str:
    template = _ENVIRONMENT.from_string(_HERE.joinpath("docs.html.j2").read_text(encoding="utf-8"))
    style = Markup(_STYLE)  # noqa: S704 - a file of our own
    return template.render(document=view(document), style=style)
