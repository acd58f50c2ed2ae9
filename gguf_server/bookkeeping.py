"""The books of a server for as long as it runs: usage per key, and the audit where there is one."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path

import structlog

from gguf_server import keys
from gguf_server.audit import entries, secret
from gguf_server.audit.auditor import Auditor
from gguf_server.audit.files import files_of
from gguf_server.audit.head import head_path
from gguf_server.audit.log_file import LogFile, Rotation
from gguf_server.audit.prompt_hash import PromptHasher
from gguf_server.audit.secret import AuditKeys
from gguf_server.audit.writer import AuditWriter
from gguf_server.gateway import Gateway
from gguf_server.limits.limiter import Limiter
from gguf_server.settings.books import AuditSettings, UsageSettings
from gguf_server.usage.ledger import LedgerError, PastUsage
from gguf_server.usage.recorder import UsageRecorder

log = structlog.get_logger("books")


def usage_path(settings: UsageSettings) -> Path:
    return settings.file or keys.default_path().with_name("usage.db")


def hash_key_path(settings: AuditSettings) -> Path:
    return settings.hash_key_file or keys.default_path().with_name("audit.key")


@asynccontextmanager
async def keeping_books(gateway: Gateway) -> AsyncIterator[None]:
    """Held while requests may come; at its end all that they did is written. Raises `AuditError` at the beginning."""
    usage, audit = gateway.settings.usage, gateway.settings.audit
    async with AsyncExitStack() as books:
        if usage.enabled:
            await books.enter_async_context(_recording_usage(gateway, usage))
        if audit.file is not None:
            await books.enter_async_context(_auditing(gateway, audit, audit.file))
        yield


@asynccontextmanager
async def _recording_usage(gateway: Gateway, settings: UsageSettings) -> AsyncIterator[None]:
    _go_on_counting(gateway.limiter, usage_path(settings))
    recorder = UsageRecorder(usage_path(settings), keep_days=settings.keep_days)
    gateway.observers.append(recorder.observe)
    gateway.conditions["usage"] = lambda: recorder.problem
    recorder.start()
    try:
        yield
    finally:
        await asyncio.to_thread(recorder.close)


def _go_on_counting(limiter: Limiter, path: Path) -> None:
    """What keys used today counts against their quotas of the day, whichever server they used it of."""
    today = datetime.now(UTC).date()
    try:
        limiter.seed(today, PastUsage(path).load(today))
    except LedgerError as error:
        log.warning("the day's quotas begin anew", why=str(error))


@asynccontextmanager
async def _auditing(gateway: Gateway, settings: AuditSettings, path: Path) -> AsyncIterator[None]:
    audit_keys = await asyncio.to_thread(_audit_keys, settings, path)
    rotation = Rotation(settings.rotate == "daily", settings.max_file_mib << 20)
    writer = AuditWriter(
        LogFile(path, audit_keys, rotation),
        with_client=settings.client_address,
        sync_every_s=0.0 if settings.fsync == "line" else 1.0,
    )
    await asyncio.to_thread(writer.start)
    auditor = Auditor(writer, must_write=settings.on_failure == "refuse")
    gateway.observers.append(auditor.observe)
    gateway.guards.append(auditor.guard)
    gateway.conditions["audit"] = lambda: writer.problem
    gateway.prompt_hasher = PromptHasher(audit_keys.prompt)
    log.info("audit goes on", file=str(path), after_line=writer.last.seq)
    writer.say(entries.of_event("start"))
    try:
        yield
    finally:
        auditor.close_minute()
        writer.say(entries.of_event("stop"))
        await asyncio.to_thread(writer.close)
        log.info("audit ends", file=str(path), last_line=writer.last.seq)


def _audit_keys(settings: AuditSettings, path: Path) -> AuditKeys:
    is_new = not files_of(path) and not head_path(path).exists()
    return secret.load_or_make(hash_key_path(settings), may_make=is_new)
