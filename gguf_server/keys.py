"""API keys: at rest in a file, and as the running server asks about them.

The file holds SHA-256 digests, never tokens: a token has 256 random bits, so a plain digest cannot be searched. Changes
to the file are made under a lock and appear at once and whole; a running server notices them at its next request.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import secrets
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, Literal

import structlog
from pydantic import StringConstraints, TypeAdapter, ValidationError

from gguf_server.limits.policy import NO_LIMITS, KeyLimits

TOKEN_PREFIX = "gsk-"  # noqa: S105

Role = Literal["user", "admin"]
"""A user asks models; an admin governs the server and asks none."""

_log = structlog.get_logger(__name__)


class KeysError(Exception):
    """A key file that cannot be read or written, or a request that does not fit what it holds."""


class KeyFileDamaged(KeysError):
    """The file is there and is not a list of keys. It is left as it is."""


@dataclass(frozen=True, slots=True)
class KeyRecord:
    """One entry of the file. `created` and `revoked` are ISO 8601, UTC."""

    id: str
    name: str
    sha256: Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
    created: str
    revoked: str | None = None
    role: Role = "user"
    limits: KeyLimits | None = None


@dataclass(frozen=True, slots=True)
class KeyIdentity:
    """Whose key a request carried. `limits`: None where the key itself has none."""

    id: str
    name: str
    role: Role = "user"
    limits: KeyLimits | None = None


_RECORDS = TypeAdapter(list[KeyRecord])


def default_path(environ: Mapping[str, str] = os.environ) -> Path:
    """Where keys are kept when no setting says otherwise."""
    state = environ.get("XDG_STATE_HOME")
    return (Path(state) if state else Path.home() / ".local" / "state") / "gguf-server" / "keys.json"


def tokens_in(text: str) -> tuple[str, ...]:
    """The tokens of a comma-separated list, as `GGUF_SERVER_API_KEYS` holds one."""
    return tuple(dict.fromkeys(token for part in text.split(",") if (token := part.strip())))


def create(path: Path, name: str, limits: KeyLimits = NO_LIMITS, *, role: Role = "user") -> tuple[KeyRecord, str]:
    """A new key and its token, which is kept nowhere. Names of active keys are distinct. Raises `KeysError`."""
    if not name.strip() or not name.isprintable():
        raise KeysError("a key needs a name of printable characters")
    token = TOKEN_PREFIX + secrets.token_urlsafe(32)
    with _locked(path):
        records = list_keys(path)
        if any(name in (record.id, record.name) and not record.revoked for record in records):
            raise KeysError(f"there is already a key {name!r}")
        record = KeyRecord(
            id=secrets.token_hex(6),
            name=name,
            sha256=_digest(token),
            created=_now(),
            role=role,
            limits=limits if limits.said() else None,
        )
        _write(path, [*records, record])
    return record, token


def revoke(path: Path, id_or_name: str) -> KeyRecord:
    """Ends the active key of that id or name and returns its record. Raises `KeysError`."""
    return _change(path, id_or_name, lambda record: replace(record, revoked=_now()))


def set_limits(path: Path, id_or_name: str, change: Callable[[KeyLimits], KeyLimits]) -> KeyRecord:
    """Changes the limits of the active key of that id or name and returns its record. Raises `KeysError`."""

    def changed(record: KeyRecord) -> KeyRecord:
        limits = change(record.limits or NO_LIMITS)
        return replace(record, limits=limits if limits.said() else None)

    return _change(path, id_or_name, changed)


def as_json(record: KeyRecord) -> dict[str, Any]:
    """As the file has it. What most keys do not have is left out: older programs read the file until a key has it."""
    optional = ("role", "limits")
    entry = {name: value for name, value in asdict(record).items() if name not in optional}
    if record.role != "user":
        entry["role"] = record.role
    if record.limits is not None:
        entry["limits"] = record.limits.said()
    return entry


def list_keys(path: Path) -> list[KeyRecord]:
    """Every key, revoked ones too, oldest first; none when there is no file. Raises `KeysError`."""
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return []
    except OSError as exc:
        raise KeysError(f"{path}: {exc.strerror}") from exc
    try:
        return _RECORDS.validate_json(content, strict=True)
    except ValidationError as exc:
        first = exc.errors(include_url=False, include_input=False)[0]
        where = ".".join(map(str, first["loc"]))
        raise KeyFileDamaged(f"{path}: damaged: {where}{': ' if where else ''}{first['msg']}") from exc


class KeyRing:
    """The active keys of a file and of `extra_tokens` (named env-1, env-2 …), as the running server asks for them.

    `admin_tokens` are those of admins, named admin-env-1, admin-env-2 ….
    The file is looked at on every question and read again only when it changed. No file yet is no keys; a damaged one
    raises `KeysError` here, and later, as does one that went away, leaves the last good keys in force.
    Not for several threads.
    """

    def __init__(self, path: Path, extra_tokens: Iterable[str] = (), admin_tokens: Iterable[str] = ()) -> None:
        self._path = path
        self._extra = [*_named("env", "user", extra_tokens), *_named("admin-env", "admin", admin_tokens)]
        self._warned = False
        self._seen = self._signature()
        self._active = self._read()

    @property
    def has_keys(self) -> bool:
        """Whether anybody may ask a model."""
        return self._has("user")

    @property
    def has_admins(self) -> bool:
        return self._has("admin")

    def identify(self, token: str) -> KeyIdentity | None:
        """Whose token this is. Takes as long for a wrong token as for any right one."""
        self._refresh()
        digest = _digest(token)
        found = None
        for known, identity in [*self._active, *self._extra]:
            if secrets.compare_digest(known, digest):
                found = identity
        return found

    def _has(self, role: Role) -> bool:
        self._refresh()
        return any(identity.role == role for _, identity in (*self._active, *self._extra))

    def _read(self) -> list[tuple[str, KeyIdentity]]:
        return [
            (record.sha256, KeyIdentity(record.id, record.name, record.role, record.limits))
            for record in list_keys(self._path)
            if not record.revoked
        ]

    def _signature(self) -> tuple[int, int, int] | None:
        """Changes whenever the file does; None while it cannot be found."""
        try:
            stat = self._path.stat()
        except OSError:
            return None
        return stat.st_mtime_ns, stat.st_size, stat.st_ino

    def _refresh(self) -> None:
        # The signature is taken before the content: a change in between is seen at the next question.
        signature = self._signature()
        if signature == self._seen:
            return
        if signature is None:
            self._keep_last_good(f"{self._path}: not found")
            return
        try:
            self._active = self._read()
        except KeyFileDamaged as exc:
            self._seen = signature
            self._keep_last_good(str(exc))
        except KeysError as exc:
            self._keep_last_good(str(exc))
        else:
            self._seen = signature
            self._warned = False

    def _keep_last_good(self, reason: str) -> None:
        if not self._warned:
            _log.warning("keys_file_unusable", reason=reason, keys_kept=len(self._active))
        self._warned = True


def _named(prefix: str, role: Role, tokens: Iterable[str]) -> list[tuple[str, KeyIdentity]]:
    """Keys that are in no file."""
    names = ((f"{prefix}-{number}", token) for number, token in enumerate(tokens, start=1))
    return [(_digest(token), KeyIdentity(name, name, role)) for name, token in names]


def _digest(token: str) -> str:
    # surrogatepass: bytes of a header that are not UTF-8 arrive as lone surrogates and must not raise here.
    return hashlib.sha256(token.encode("utf-8", "surrogatepass")).hexdigest()


def _change(path: Path, id_or_name: str, change: Callable[[KeyRecord], KeyRecord]) -> KeyRecord:
    with _locked(path):
        records = list_keys(path)
        active = [record for record in records if not record.revoked]
        found = [record for record in active if id_or_name in (record.id, record.name)]
        if not found:
            raise KeysError(f"no active key has the id or name {id_or_name!r}")
        changed = change(found[0])
        _write(path, [changed if record.id == changed.id else record for record in records])
    return changed


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Keeps other processes from changing the file meanwhile; blocks until they are done.

    The lock is a file of its own, because a change replaces the key file.
    """
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        lock = os.open(path.with_name(path.name + ".lock"), os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield
        finally:
            os.close(lock)
    except OSError as exc:
        raise KeysError(f"{exc.filename or path}: {exc.strerror}") from exc


def _write(path: Path, records: list[KeyRecord]) -> None:
    """Replaces the file at once and durably; it is readable by its owner alone."""
    text = json.dumps([as_json(record) for record in records], indent=2, ensure_ascii=False) + "\n"
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=path.name + ".")
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink()
        raise
    directory = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)
