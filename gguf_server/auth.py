"""Whose request this is, told from its headers. Tokens are in no message here."""

from __future__ import annotations

import re
import time

from multidict import CIMultiDictProxy

from gguf_server.errors import PermissionDenied, Unauthorized
from gguf_server.keys import KeyIdentity, KeyRing, Role

_BEARER = re.compile(r"\s*bearer\s+(.*?)\s*", re.IGNORECASE | re.DOTALL)

# What JavaScript clients send for a key that was never set.
_UNSET = {"", "undefined", "null"}


def bearer_tokens(headers: CIMultiDictProxy[str]) -> list[str]:
    """The distinct tokens of all Authorization headers, in order.

    Clients may send two such headers (an SDK's own key beside the one in `default_headers`), which Node joins into one
    with a comma.
    """
    credentials = (part for header in headers.getall("Authorization", []) for part in header.split(","))
    tokens = (match[1] for part in credentials if (match := _BEARER.fullmatch(part)))
    return [token for token in dict.fromkeys(tokens) if token not in _UNSET]


def authenticate(headers: CIMultiDictProxy[str], keyring: KeyRing) -> KeyIdentity:
    """Whose key the request carries. Wrong tokens beside one right token do no harm. Raises `Unauthorized`."""
    tokens = bearer_tokens(headers)
    if not tokens:
        raise Unauthorized("missing API key: send it as 'Authorization: Bearer TOKEN'")
    valid = [identity for token in tokens if (identity := keyring.identify(token)) is not None]
    if not valid:
        raise Unauthorized("wrong API key")
    now_s = time.time()
    in_time = [identity for identity in valid if not (identity.limits and identity.limits.has_expired(now_s))]
    if not in_time:
        raise Unauthorized("this API key has expired", code="key_expired")
    if len(in_time) > 1:
        raise Unauthorized("ambiguous API keys: the request carries two different valid ones; send one")
    return in_time[0]


def check_role(identity: KeyIdentity, role: Role) -> None:
    """Raises `PermissionDenied` for a key of the other kind."""
    if identity.role == role:
        return
    if role == "admin":
        message = "this needs an admin key: gguf-server keys create NAME --admin makes one"
    else:
        message = "this is an admin key: it governs the server, and asks no model; send an ordinary key"
    raise PermissionDenied(message, code="wrong_role")
