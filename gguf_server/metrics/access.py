"""Who may read the metrics: whoever has the metrics key where there is one. Without, an API key opens `/metrics` on the
listeners that clients use, and the metrics' own port is open.
"""

from __future__ import annotations

import hashlib
import os
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from multidict import CIMultiDictProxy

from gguf_server.auth import bearer_tokens
from gguf_server.errors import Unauthorized
from gguf_server.loopback import is_loopback
from gguf_server.settings.observing import MetricsSettings

KEY_VARIABLE: Final = "GGUF_SERVER_METRICS_KEY"


class MetricsKeyError(Exception):
    """The metrics key cannot be had, or there is none where one is needed. The message says what to do."""


@dataclass(frozen=True, slots=True)
class MetricsKey:
    """`sha256` of the token, which is not kept."""

    sha256: bytes

    def check(self, headers: CIMultiDictProxy[str]) -> None:
        """Raises `Unauthorized`."""
        tokens = bearer_tokens(headers)
        if not tokens:
            raise Unauthorized("missing metrics key: send it as 'Authorization: Bearer TOKEN'")
        if not any(secrets.compare_digest(_digest(token), self.sha256) for token in tokens):
            raise Unauthorized("wrong metrics key: an API key does not open the metrics here")


def open_key(settings: MetricsSettings, environ: Mapping[str, str] = os.environ) -> MetricsKey | None:
    """The key that the environment or the key file gives. Raises `MetricsKeyError`."""
    token = environ.get(KEY_VARIABLE, "").strip()
    path = settings.key_file
    if not token and path is not None:
        try:
            token = path.read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError) as error:
            why = error.strerror if isinstance(error, OSError) else "not UTF-8"
            raise MetricsKeyError(f"metrics.key_file: {path}: {why}") from error
        if not token:
            raise MetricsKeyError(f"metrics.key_file: {path} is empty: write the metrics key into it")
    return MetricsKey(_digest(token)) if token else None


def problems(settings: MetricsSettings, environ: Mapping[str, str]) -> list[str]:
    """A line where anybody on the network could read the metrics."""
    is_closed = settings.key_file is not None or environ.get(KEY_VARIABLE, "").strip()
    if settings.port is None or is_loopback(settings.host) or is_closed:
        return []
    return [
        f"metrics.host: {settings.host} is not a loopback address, and there is no metrics key: anybody could read the "
        f"metrics. Set metrics.key_file or {KEY_VARIABLE}"
    ]


def _digest(token: str) -> bytes:
    return hashlib.sha256(token.encode("utf-8", "surrogatepass")).digest()
