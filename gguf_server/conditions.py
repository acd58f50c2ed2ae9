"""What is wrong with parts of the server that do not answer requests themselves, but keep account of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from aiohttp import web

from gguf_server.request_record import RequestRecord

Condition = Callable[[], str | None]
"""Why the part does not work just now, or None."""

CONDITIONS: Final = web.AppKey("conditions", dict[str, Condition])
"""By the part's name."""

Guard = Callable[[RequestRecord], None]
"""Asked as soon as it is known whose request it is; raises a `GatewayError` for one that may not go on."""

GUARDS: Final = web.AppKey("guards", list[Guard])
