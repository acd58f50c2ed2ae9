"""The table of the configuration that says what keys may do which say nothing of it themselves."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final, Literal
from urllib.parse import SplitResult, urlsplit

from pydantic import Field, field_validator, model_validator

from gguf_server.settings.base import Strict

MEMORY: Final = "memory"
_SCHEMES: Final = ("redis", "rediss", "valkey", "valkeys")


class LimitsSettings(Strict):
    """Limits of every key that has none of its own of that kind, those of the environment too; 0 or absent: none.

    A minute is any 60 seconds, a day begins at midnight, UTC. Tokens are those of prompts and answers.
    """

    requests_per_minute: int = Field(0, ge=0)
    tokens_per_minute: int = Field(0, ge=0)
    requests_per_day: int = Field(0, ge=0)
    tokens_per_day: int = Field(0, ge=0)
    max_concurrent: int = Field(0, ge=0, description="Requests of a key that a service computes at once; more wait.")
    max_tokens: int = Field(0, ge=0, description="Largest max_tokens of a request.")
    priority: Literal["high", "normal", "low"] = Field("normal", description="Whose turn comes first.")
    store: str = Field(
        MEMORY,
        description="Where it is counted. memory: in this process; redis://HOST:PORT/DB, rediss:// (TLS) or "
        "unix:///PATH: in a Redis or Valkey that several gateways share (the extra `redis`).",
    )
    store_password_env: str | None = Field(
        None, pattern=r"^[A-Za-z_][A-Za-z0-9_]*$", description="Environment variable that holds the store's password."
    )
    store_password_file: Path | None = Field(None, description="File that holds it; read at the start.")
    store_prefix: str = Field("gguf-server", pattern=r"^[A-Za-z0-9._:-]+$", description="Its keys begin so.")
    store_timeout_s: float = Field(
        0.25, gt=0, le=5, description="A store that takes longer counts as gone: this process counts by itself then."
    )

    @field_validator("store")
    @classmethod
    def _store_is_memory_or_a_url(cls, store: str) -> str:
        """A password in the address would end up in `config show` and in logs."""
        if store == MEMORY:
            return store
        parts = urlsplit(store)
        if not _is_address(parts):
            raise ValueError("expected memory, redis://HOST:PORT/DB, rediss://HOST:PORT/DB or unix:///PATH")
        if parts.password is not None or "password=" in parts.query:
            raise ValueError("the password does not belong here; use store_password_env or store_password_file")
        return store

    @model_validator(mode="after")
    def _one_password(self) -> LimitsSettings:
        if self.store_password_env is not None and self.store_password_file is not None:
            raise ValueError("give store_password_env or store_password_file, not both")
        return self


def _is_address(parts: SplitResult) -> bool:
    if parts.scheme == "unix":
        return bool(parts.path)
    try:
        has_port = parts.port is None or parts.port > 0
    except ValueError:
        return False
    is_database = re.fullmatch(r"/?\d*", parts.path) is not None
    return parts.scheme in _SCHEMES and bool(parts.hostname) and has_port and is_database
