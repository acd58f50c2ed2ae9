"""From the table `[limits]` to a limiter."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from gguf_server.limits.limiter import Limiter
from gguf_server.limits.memory_store import MemoryStore
from gguf_server.limits.policy import KeyLimits, Priority
from gguf_server.settings.limits import MEMORY, LimitsSettings

if TYPE_CHECKING:
    from gguf_server.limits.redis_store import RedisStore


class LimitsError(Exception):
    """The store of `[limits]` cannot be used. The message says what to do."""


def defaults(settings: LimitsSettings) -> KeyLimits:
    """What the table says of keys that say nothing."""
    return KeyLimits(
        requests_per_minute=settings.requests_per_minute or None,
        tokens_per_minute=settings.tokens_per_minute or None,
        requests_per_day=settings.requests_per_day or None,
        tokens_per_day=settings.tokens_per_day or None,
        max_concurrent=settings.max_concurrent or None,
        max_tokens=settings.max_tokens or None,
        priority=Priority(settings.priority),
    )


@asynccontextmanager
async def limiting(settings: LimitsSettings) -> AsyncIterator[Limiter]:
    """Held while requests come. A shared store that cannot be reached is no error. Raises `LimitsError`."""
    local = MemoryStore()
    if settings.store == MEMORY:
        yield Limiter(defaults(settings), local=local)
        return
    shared = _shared(settings, local)
    try:
        yield Limiter(defaults(settings), local=local, shared=shared)
    finally:
        await shared.close()


def _shared(settings: LimitsSettings, local: MemoryStore) -> RedisStore:
    try:
        from gguf_server.limits.redis_store import RedisStore
    except ModuleNotFoundError as error:
        raise LimitsError(
            f"limits.store is {settings.store!r}, which needs the Python package redis: "
            "pip install 'gguf-server[redis]'"
        ) from error
    return RedisStore(
        settings.store.replace("valkey", "redis", 1) if settings.store.startswith("valkey") else settings.store,
        local,
        password=_password(settings, os.environ),
        prefix=settings.store_prefix,
        timeout_s=settings.store_timeout_s,
    )


def _password(settings: LimitsSettings, environ: Mapping[str, str]) -> str | None:
    if (name := settings.store_password_env) is not None:
        if not environ.get(name):
            raise LimitsError(f"limits.store_password_env: the environment variable {name} is not set")
        return environ[name]
    if (path := settings.store_password_file) is not None:
        try:
            return path.read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError) as error:
            reason = error.strerror if isinstance(error, OSError) else "not UTF-8"
            raise LimitsError(f"limits.store_password_file: {path}: {reason}") from error
    return None
