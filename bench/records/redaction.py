"""What a published result must not tell: keys in command lines and addresses, and whose home directory it was."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit, urlunsplit

REDACTED: Final = "[redacted]"
_SECRET_WORDS: Final = frozenset({
    "apikey", "auth", "authorization", "credential", "credentials", "key", "keys", "passphrase", "passwd", "password",
    "secret", "token",
})  # fmt: skip
_OPTION: Final = re.compile(r"--[a-z][a-z-]*(=.*)?", re.DOTALL)
_BEARER: Final = re.compile(r"(?i)\bauthorization:\s*\S.*|\bbearer\s+\S+")
_ASSIGNMENT: Final = re.compile(r"(?P<name>-{0,2}[A-Za-z][\w-]*)=(?P<value>.+)", re.DOTALL)
_URL: Final = re.compile(r"[a-z][a-z0-9+.-]*://\S+", re.IGNORECASE)


def argv_without_secrets(argv: Sequence[str]) -> tuple[str, ...]:
    """The values of options and variables named after secrets are left out, whatever they are."""
    cleaned: list[str] = []
    is_value = False
    for argument in argv:
        if is_value and not _OPTION.fullmatch(argument):
            cleaned.append(REDACTED)
            is_value = False
            continue
        cleaned.append(text_without_secrets(argument))
        is_value = argument.startswith("-") and "=" not in argument and _is_secret(argument)
    return tuple(cleaned)


def table_without_secrets(table: Mapping[str, bool | int | float | str]) -> dict[str, bool | int | float | str]:
    """The same for settings, by their names."""
    return {name: _setting(name, value) if isinstance(value, str) else value for name, value in table.items()}


def text_without_secrets(argument: str) -> str:
    """The same for one argument, setting or sentence that stands alone."""
    assigned = _ASSIGNMENT.fullmatch(argument)
    if assigned and _is_secret(assigned["name"]):
        return f"{assigned['name']}={REDACTED}"
    argument = _BEARER.sub(REDACTED, argument)
    return _without_home(_URL.sub(lambda found: url_without_secrets(found[0]), argument))


def url_without_secrets(url: str) -> str:
    """Scheme, host, port and path; `unix:PATH` stays as it is but for the home directory."""
    if url.startswith("unix:"):
        return "unix:" + _without_home(url.removeprefix("unix:"))
    try:
        parts = urlsplit(url)
        port = f":{parts.port}" if parts.port else ""
    except ValueError:
        return REDACTED
    host = parts.hostname or ""
    return urlunsplit((parts.scheme, f"[{host}]{port}" if ":" in host else f"{host}{port}", parts.path, "", ""))


def _setting(name: str, value: str) -> str:
    return REDACTED if _is_secret(name) else text_without_secrets(value)


def _is_secret(name: str) -> bool:
    return not _SECRET_WORDS.isdisjoint(re.split(r"[-_]", name.lower()))


def _without_home(text: str) -> str:
    home = str(Path.home())
    return re.sub(rf"{re.escape(home)}(?=/|$)", "~", text) if len(home) > 1 else text
