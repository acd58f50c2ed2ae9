"""The certificate that listeners show, and the one that replaces it while they listen.

Each handshake looks, at most once a second, whether the files are others than those that were read. A new pair that
cannot be used is told once and changes nothing.
"""

from __future__ import annotations

import ssl
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final

import structlog
from cryptography import x509

from gguf_server.settings.listening import TlsSettings

_LOOK_EVERY_S: Final = 1.0
EXPIRES_SOON: Final = timedelta(days=21)

log = structlog.get_logger("server")

FileState = tuple[int, int, int]
"""Inode, size and time of the last change in ns."""


class TlsError(Exception):
    """The files cannot be used; the message says which and what to do."""


@dataclass(frozen=True, slots=True)
class Pair:
    """A certificate with its key, ready for handshakes."""

    context: ssl.SSLContext
    not_before: datetime
    expires: datetime

    def doubt(self, now: datetime) -> str | None:
        """What speaks against this certificate although it can be used."""
        if now >= self.expires:
            return f"expired on {self.expires:%Y-%m-%d}: clients will refuse it"
        if now < self.not_before:
            return f"not valid before {self.not_before:%Y-%m-%d %H:%M} UTC: clients will refuse it"
        if self.expires - now < EXPIRES_SOON:
            return f"expires on {self.expires:%Y-%m-%d}"
        return None


def read_pair(settings: TlsSettings) -> Pair:
    """Raises `TlsError`."""
    certificate, key = settings.certificate, settings.key
    if certificate is None or key is None:
        raise TlsError("tls: no certificate is set")
    leaf = _first_certificate(certificate)
    _check_readable(key, "tls.key")
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.set_alpn_protocols(["http/1.1"])
    try:
        context.load_cert_chain(certificate, key, password=_refuse_passphrase)
    except _EncryptedKeyError as error:
        raise TlsError(
            f"tls.key: {key} wants a passphrase: store it without one, readable to the server only"
        ) from error
    except ssl.SSLError as error:
        raise TlsError(_pair_problem(error, certificate, key)) from error
    if settings.client_ca is not None:
        _demand_client_certificates(context, settings.client_ca)
    return Pair(context, leaf.not_valid_before_utc, leaf.not_valid_after_utc)


class Certificate:
    """The current pair. `context` is for the listeners: it shows whatever pair is current at a handshake.

    Raises `TlsError` where there is no usable pair to begin with.
    """

    def __init__(self, settings: TlsSettings, now: Callable[[], float] = time.monotonic) -> None:
        self._settings = settings
        self._now = now
        self._state = self._look()
        self._looked_at = now()
        self.pair = read_pair(settings)
        self.context = self.pair.context
        self.context.sni_callback = self._show_current  # called for clients that name no host as well
        _tell_doubt(self.pair)

    def refresh(self) -> None:
        """Take the files as they are now, if they changed and can be used."""
        state = self._look()
        if state == self._state:
            return
        self._state = state
        try:
            pair = read_pair(self._settings)
        except TlsError as error:
            log.warning("new certificate not used", problem=str(error))
            return
        self.pair = pair
        log.info("new certificate in use", expires=f"{pair.expires:%Y-%m-%d}")
        _tell_doubt(pair)

    def _show_current(self, handshake: ssl.SSLObject | ssl.SSLSocket, _name: str | None, _: ssl.SSLContext) -> None:
        now = self._now()
        if now - self._looked_at >= _LOOK_EVERY_S:
            self._looked_at = now
            self.refresh()
        if handshake.context is not self.pair.context:
            handshake.context = self.pair.context

    def _look(self) -> tuple[FileState | None, ...]:
        settings = self._settings
        return tuple(_state_of(path) for path in (settings.certificate, settings.key, settings.client_ca))


class _EncryptedKeyError(Exception):
    pass


def _refuse_passphrase(*_: Any) -> str:
    """Without it OpenSSL would ask at the terminal."""
    raise _EncryptedKeyError


def _first_certificate(path: Path) -> x509.Certificate:
    try:
        return x509.load_pem_x509_certificates(path.read_bytes())[0]
    except OSError as error:
        raise TlsError(f"tls.certificate: {path}: {error.strerror}") from error
    except ValueError as error:
        raise TlsError(f"tls.certificate: {path} holds no certificate in PEM form") from error


def _check_readable(path: Path, setting: str) -> None:
    try:
        path.read_bytes()
    except OSError as error:
        raise TlsError(f"{setting}: {path}: {error.strerror}") from error


def _pair_problem(error: ssl.SSLError, certificate: Path, key: Path) -> str:
    if error.reason == "KEY_VALUES_MISMATCH":
        return f"tls.key: {key} is not the key of {certificate}"
    if error.reason in ("EE_KEY_TOO_SMALL", "CA_KEY_TOO_SMALL", "CA_MD_TOO_WEAK"):
        return f"tls.certificate: {certificate} is too weak ({error.reason}): make one with a key of 2048 bits or more"
    return f"tls.key: {key} holds no private key in PEM form that OpenSSL can use ({error.reason or 'PEM'})"


def _demand_client_certificates(context: ssl.SSLContext, authorities: Path) -> None:
    _check_readable(authorities, "tls.client_ca")
    try:
        context.load_verify_locations(authorities)
    except ssl.SSLError as error:
        raise TlsError(f"tls.client_ca: {authorities} holds no certificate in PEM form") from error
    context.verify_mode = ssl.CERT_REQUIRED


def _state_of(path: Path | None) -> FileState | None:
    """None where there is nothing to look at."""
    try:
        found = path.stat() if path else None
    except OSError:
        return None
    return (found.st_ino, found.st_size, found.st_mtime_ns) if found else None


def _tell_doubt(pair: Pair) -> None:
    if doubt := pair.doubt(datetime.now(UTC)):
        log.warning("certificate", problem=doubt)
