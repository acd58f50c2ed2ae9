"""One file of the hub, fetched into its cache under the name of its checksum.

The hub's client begins a download that was interrupted from nothing. Here the part that came is kept beside the place
where the whole file goes, and the next attempt, in this process or a later one, asks for the rest. A file gets its name
only after its checksum was found right, so what is in the cache is whole. Runs in the caller's thread, where Ctrl-C
ends it between two pieces.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Final

import httpx2
from filelock import FileLock, Timeout
from huggingface_hub import constants, get_hf_file_metadata, get_session, hf_hub_url
from huggingface_hub.errors import HfHubHTTPError
from huggingface_hub.utils import build_hf_headers, hf_raise_for_status

from weights import checked
from weights.checksums import Digest
from weights.errors import AlteredInTransit, PullFailed
from weights.hub_cache import cache_dir, repo_folder
from weights.hub_errors import told_in_words
from weights.hub_listing import HubEntry

Reach = Callable[[int], None]  # told how many bytes of the file are here; fewer than before where it begins anew

_PIECE_BYTES: Final = 1 << 20
_PAUSES_S: Final = (1.0, 2.0, 4.0, 8.0, 15.0)  # after each attempt in a row that brought nothing
_TRANSIENT: Final = frozenset({408, 429, 500, 502, 503, 504})


@dataclass(frozen=True, slots=True)
class Source:
    """A file of a commit."""

    repo: str
    commit: str
    entry: HubEntry

    def __str__(self) -> str:
        return f"{self.entry.name} of {self.repo}"

    @property
    def blob(self) -> Path:
        return repo_folder(self.repo) / "blobs" / self.entry.checksum

    @property
    def part(self) -> Path:
        """What came of it so far; the hub's own tools know such names as leftovers that may be removed."""
        return self.blob.with_name(f"{self.entry.checksum}.incomplete")

    @property
    def n_here(self) -> int:
        """Bytes that need not be fetched."""
        try:
            return min(self.part.stat().st_size, self.entry.n_bytes)
        except OSError:
            return 0


def fetch(source: Source, reach: Reach) -> None:
    """Afterwards `source.blob` is the whole file. Raises `PullFailed`, and OSError where it cannot be written.

    What came is kept on any error but a wrong checksum, and on KeyboardInterrupt.
    """
    source.blob.parent.mkdir(parents=True, exist_ok=True)
    with _sole(source):
        resumed = source.n_here > 0
        try:
            _fetch_once(source, reach)
        except AlteredInTransit:
            if not resumed:
                raise
            _fetch_once(source, reach)  # the part that was here may have been at fault
    checked.mark(source.blob, source.entry.checksum)


@contextlib.contextmanager
def _sole(source: Source) -> Iterator[None]:
    """Nobody else writes to the part: the lock is the one that the hub's client takes."""
    path = cache_dir() / ".locks" / source.blob.parent.parent.name / f"{source.entry.checksum}.lock"
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(path, timeout=0):
            yield
    except Timeout as error:
        raise PullFailed(f"{source} is being fetched by another program: wait for it") from error


def _fetch_once(source: Source, reach: Reach) -> None:
    with source.part.open("ab+") as part:
        receiver = _Receiver(part, source.entry, reach)
        with told_in_words(str(source)):
            _until_whole(source, receiver)
        part.flush()
        os.fsync(part.fileno())
    if receiver.checksum() != source.entry.checksum:
        source.part.unlink()
        raise AlteredInTransit(f"{source}: what came has another checksum than the hub announced, and was dropped")
    source.part.replace(source.blob)


class _Receiver:
    """The part of a file that is here and its running checksum. `part` is open for appending."""

    def __init__(self, part: BinaryIO, entry: HubEntry, reach: Reach) -> None:
        self._part, self._entry, self._reach = part, entry, reach
        self._digest = Digest(entry.checksum, entry.n_bytes)
        self.n_bytes = 0
        part.seek(0)
        while piece := part.read(_PIECE_BYTES):
            self._count(piece)
        if self.n_bytes > entry.n_bytes:
            self.restart()

    @property
    def is_full(self) -> bool:
        return self.n_bytes == self._entry.n_bytes

    def checksum(self) -> str:
        return self._digest.hexdigest()

    def restart(self) -> None:
        self._part.truncate(0)
        self._digest = Digest(self._entry.checksum, self._entry.n_bytes)
        self.n_bytes = 0
        self._reach(0)

    def take(self, piece: bytes) -> None:
        """Raises `AlteredInTransit` for more than the file's size."""
        if self.n_bytes + len(piece) > self._entry.n_bytes:
            self.restart()
            raise AlteredInTransit(f"{self._entry.name}: more came than the {self._entry.n_bytes} bytes announced")
        self._part.write(piece)
        self._count(piece)

    def _count(self, piece: bytes) -> None:
        self._digest.update(piece)
        self.n_bytes += len(piece)
        self._reach(self.n_bytes)


def _until_whole(source: Source, receiver: _Receiver) -> None:
    """Asks again for the rest after each cut, until several attempts in a row brought nothing."""
    n_vain = 0
    while not receiver.is_full:
        n_before = receiver.n_bytes
        try:
            _receive(source, receiver)
        except (httpx2.TransportError, HfHubHTTPError) as error:
            if isinstance(error, HfHubHTTPError) and error.response.status_code not in _TRANSIENT:
                raise
            n_vain = 0 if receiver.n_bytes > n_before else n_vain + 1
            if n_vain > len(_PAUSES_S):
                raise
            time.sleep(_PAUSES_S[max(n_vain - 1, 0)])
        else:
            if receiver.n_bytes == n_before:
                raise PullFailed(f"{source}: the hub sends nothing; try again later")


def _receive(source: Source, receiver: _Receiver) -> None:
    """One request for what is missing. A redirection to another host goes without our token: httpx2 sees to that."""
    url = hf_hub_url(source.repo, source.entry.name, revision=source.commit)
    if get_hf_file_metadata(url).etag != source.entry.checksum:  # by which the client would name the file
        raise PullFailed(f"{source}: the hub tells two different checksums of it; try again later")
    headers = build_hf_headers() | {"Accept-Encoding": "identity"}
    if receiver.n_bytes:
        headers["Range"] = f"bytes={receiver.n_bytes}-"
    with get_session().stream("GET", url, headers=headers, timeout=constants.HF_HUB_DOWNLOAD_TIMEOUT) as answer:
        hf_raise_for_status(answer)
        if answer.status_code != httpx2.codes.PARTIAL_CONTENT and receiver.n_bytes:
            receiver.restart()
        for piece in answer.iter_bytes():
            receiver.take(piece)
