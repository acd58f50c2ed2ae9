"""Judgements on ports, the hub's cache, keys and the configuration."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from typing import Final

from gguf_server.commands.model_description import binary_size
from gguf_server.doctor.finding import Finding, Verdict
from gguf_server.doctor.surroundings_facts import HubCache, Keys, Port
from gguf_server.listening.tls import TlsError, read_pair
from gguf_server.settings import Settings
from gguf_server.settings.listening import TlsSettings

_FULL_BYTES: Final = 1 << 30
_ROOM_FOR_A_MODEL_BYTES: Final = 20 << 30


def check_config(settings: Settings | None, problems: Sequence[str]) -> Iterator[Finding]:
    """`settings` None: it cannot be used, for the `problems`."""
    for problem in problems:
        yield Finding("config", Verdict.BROKEN, problem, "gguf-server config schema")
    if settings is not None:
        services = ", ".join(settings.services)
        yield Finding("config", Verdict.OK, f"{services} on {settings.server.host}:{settings.server.port}")


def check_port(port: Port) -> Finding:
    where = f"{port.host}:{port.number}"
    match port.state:
        case "free":
            return Finding("port", Verdict.OK, f"{where} is free", subject=port.setting)
        case "taken":
            message = f"{where} is taken: another program listens there, or this server already"
            return Finding("port", Verdict.BROKEN, message, f"ss -ltnp 'sport = :{port.number}'", port.setting)
        case "forbidden":
            message = f"{where} is not for this user: choose a port from 1024 up"
            return Finding("port", Verdict.BROKEN, message, subject=port.setting)
        case "no_such_address":
            message = f"this machine has no address {port.host}"
            return Finding("port", Verdict.BROKEN, message, "ip -brief address", port.setting)
        case "failing":
            return Finding("port", Verdict.BROKEN, f"{where}: {port.detail}", subject=port.setting)


def check_cache(cache: HubCache, n_missing: int) -> Finding:
    """`n_missing` models are still to be fetched into it."""
    message = f"{cache.folder}, {binary_size(cache.n_free_bytes)} free"
    if not cache.is_writable:
        remedy = "export HF_HUB_CACHE=FOLDER" if n_missing else None
        verdict = Verdict.WARNING if n_missing else Verdict.OK
        return Finding("hub_cache", verdict, f"{message}; nothing can be written there", remedy)
    if cache.is_offline and n_missing:
        message += f"; {_models(n_missing)} to be fetched, and HF_HUB_OFFLINE forbids it"
        return Finding("hub_cache", Verdict.WARNING, message, "unset HF_HUB_OFFLINE")
    if cache.n_free_bytes < _FULL_BYTES or (n_missing and cache.n_free_bytes < _ROOM_FOR_A_MODEL_BYTES):
        to_fetch = f", with {_models(n_missing)} to be fetched" if n_missing else ""
        message += f": little for models of several GiB{to_fetch}"
        return Finding("hub_cache", Verdict.WARNING, message, "gguf-server list")
    return Finding("hub_cache", Verdict.OK, message)


def check_keys(keys: Keys) -> Finding:
    if keys.failure is not None:
        return Finding("keys", Verdict.BROKEN, keys.failure, "gguf-server keys list")
    if keys.n_active:
        return Finding("keys", Verdict.OK, f"{keys.n_active} in use, kept in {keys.path}")
    if keys.is_loopback:
        return Finding("keys", Verdict.OK, "none yet: the first start makes one")
    message = "none, and the server is to listen on an address that others reach: it will not start"
    return Finding("keys", Verdict.BROKEN, message, "gguf-server keys create NAME")


def check_certificate(settings: TlsSettings) -> Iterator[Finding]:
    if not settings.is_on:
        return
    subject = str(settings.certificate)
    try:
        pair = read_pair(settings)
    except TlsError as error:
        yield Finding("certificate", Verdict.BROKEN, str(error), "gguf-server config check", subject)
        return
    doubt = pair.doubt(datetime.now(UTC))
    message = doubt or f"good until {pair.expires:%Y-%m-%d}"
    yield Finding("certificate", Verdict.WARNING if doubt else Verdict.OK, message, subject=subject)


def _models(n: int) -> str:
    return "a model is" if n == 1 else f"{n} models are"
