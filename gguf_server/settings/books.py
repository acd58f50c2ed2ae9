"""The tables of the configuration that say what is kept of requests: usage per key, and the audit."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field

from gguf_server.settings.base import Strict


class UsageSettings(Strict):
    """What each key used of each day, in an SQLite file; without content."""

    enabled: bool = Field(
        True, description="Whether usage is kept. Without it a restart forgets what a key used of its day's quota."
    )
    file: Path | None = Field(None, description="By default usage.db in the state directory.")
    keep_days: int = Field(400, ge=0, description="Days that are kept; older ones are removed. 0: all are kept.")


class AuditSettings(Strict):
    """One line of JSON for each request, without content, chained so that a change is found. Off without a `file`."""

    file: Path | None = Field(None, description="Where lines are added; absent: no audit.")
    hash_key_file: Path | None = Field(
        None,
        description="The key of the chain and of the prompts' hashes, made at first use; by default audit.key in the "
        "state directory. Who has it can forge lines: keep a copy where the audit is not.",
    )
    fsync: Literal["line", "second"] = Field(
        "line", description="line: on the disk as soon as written; second: at most a second is lost to a power failure."
    )
    on_failure: Literal["refuse", "warn"] = Field(
        "refuse",
        description="While lines cannot be written. refuse: new requests are answered 503; warn: the log says so.",
    )
    rotate: Literal["daily", "never"] = Field(
        "daily", description="daily: at midnight, UTC, the file is put beside under a name with its day."
    )
    max_file_mib: int = Field(256, ge=0, description="A file of this many MiB is put beside as well; 0: no limit.")
    client_address: bool = Field(True, description="Whether lines hold the client's address.")
