"""Bringing what references mean from the hub into its cache.

In this order: ask the hub what there is, count what is missing, see that the disk holds it, fetch file after file and
check each, and only then let the revision's name lead to them. So a pull that fails leaves what was there before, and
what already came is used by the next.
"""

from __future__ import annotations

import errno
import glob
import os
import shutil
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from huggingface_hub import constants, snapshot_download
from huggingface_hub.utils import disable_progress_bars

from weights import checked
from weights.blob_download import Source, fetch
from weights.checksums import checksum_of
from weights.errors import NoSpace, PullFailed
from weights.hub_cache import Snapshot, cache_dir, repo_folder
from weights.hub_errors import told_in_words
from weights.hub_listing import HubEntry, Listing, list_files
from weights.reference import Hub

_SPARE_BYTES = 256 << 20  # a disk filled to its end serves nobody


class Progress(Protocol):
    """What is told while a pull runs, for each file in turn: how it is called, and how many of its bytes are done."""

    def begin(self, name: str, n_bytes: int, *, is_check: bool) -> None: ...
    def reach(self, n_bytes: int) -> None: ...


@dataclass(frozen=True, slots=True)
class Part:
    """Files of one commit, and the references that led to them."""

    wanted: tuple[Hub, ...]
    listing: Listing
    entries: tuple[HubEntry, ...]

    @property
    def n_bytes(self) -> int:
        return sum(entry.n_bytes for entry in self.entries)

    @property
    def sources(self) -> tuple[Source, ...]:
        return tuple(Source(self.listing.repo, self.listing.commit, entry) for entry in self.entries)


@dataclass(frozen=True, slots=True)
class Plan:
    parts: tuple[Part, ...]

    @property
    def n_missing_bytes(self) -> int:
        """What has yet to come, if everything that is here turns out to be whole."""
        absent = {source.blob: source for part in self.parts for source in part.sources if not source.blob.is_file()}
        return sum(source.entry.n_bytes - source.n_here for source in absent.values())


def make_plan(wanted: Iterable[Hub]) -> Plan:
    """Asks the hub once for each repository and revision. Raises `WeightsMissing` and `PullFailed`."""
    by_commit: dict[tuple[str, str | None], list[Hub]] = {}
    for reference in dict.fromkeys(wanted):
        by_commit.setdefault((reference.repo, reference.revision), []).append(reference)
    return Plan(tuple(_part(list_files(*key), references) for key, references in by_commit.items()))


def _part(listing: Listing, wanted: Sequence[Hub]) -> Part:
    entries = dict.fromkeys(entry for reference in wanted for entry in listing.choose(reference))
    for entry in entries:
        if entry.n_bytes > constants.MAX_HTTP_DOWNLOAD_SIZE:
            how = f"hf download {listing.repo} {entry.name}, then gguf-server verify hf:{listing.repo}/{entry.name}"
            raise PullFailed(f"{entry.name} is larger than the hub gives over HTTP: {how}")
    return Part(tuple(wanted), listing, tuple(entries))


def check_space(plan: Plan) -> None:
    """Raises `NoSpace` where the disk of the cache would be filled."""
    place = cache_dir()
    while not place.exists() and place != place.parent:
        place = place.parent
    n_free, n_needed = shutil.disk_usage(place).free, plan.n_missing_bytes
    if n_needed and n_needed + _SPARE_BYTES > n_free:
        raise NoSpace(
            f"{n_needed / 1e9:.1f} GB are to come and {cache_dir()} has {n_free / 1e9:.1f} GB free. `gguf-server list`"
            " shows what is there and `gguf-server rm` removes it; HF_HOME may name a larger disk"
        )


def pull(plan: Plan, progress: Progress) -> None:
    """Afterwards every file of the plan is in the cache and whole. Raises `PullFailed`.

    Blocks, in the caller's thread alone, so KeyboardInterrupt ends it; what came is then kept for the next pull.
    """
    try:
        check_space(plan)
        for part in plan.parts:
            for source in part.sources:
                _bring(source, progress)
            _link(part)
    except OSError as error:
        if error.errno == errno.ENOSPC:
            raise NoSpace(f"the disk of {cache_dir()} is full; what came is kept, and the next pull goes on") from error
        raise PullFailed(f"the cache cannot be written to: {error}") from error


def _bring(source: Source, progress: Progress) -> None:
    entry = source.entry
    if source.blob.is_file():
        if checked.is_marked(source.blob, entry.checksum) or _is_whole(source, progress):
            return
        source.blob.unlink()  # the space is needed; what links to it leads to the new one
    progress.begin(entry.name, entry.n_bytes, is_check=False)
    fetch(source, progress.reach)


def _is_whole(source: Source, progress: Progress) -> bool:
    """Whether a file that something else brought, or wrote to, is what the hub has. Reads it, unless its size tells."""
    entry, n_read = source.entry, 0
    if source.blob.stat().st_size != entry.n_bytes:
        return False

    def advance(n_bytes: int) -> None:
        nonlocal n_read
        n_read += n_bytes
        progress.reach(n_read)

    progress.begin(entry.name, entry.n_bytes, is_check=True)
    if checksum_of(source.blob, entry.checksum, advance) != entry.checksum:
        return False
    checked.mark(source.blob, entry.checksum)
    return True


def _link(part: Part) -> None:
    """Lets the hub's client make the snapshot of what is there, and the listing beside it that works offline."""
    listing = part.listing
    snapshot = Snapshot(listing.repo, repo_folder(listing.repo) / "snapshots" / listing.commit)
    for entry in part.entries:
        file = snapshot.file(entry.name)
        if file.path.is_file() and file.checksum is None and file.n_bytes != entry.n_bytes:  # a copy: no links here
            file.path.unlink()
    names = [glob.escape(entry.name) for entry in part.entries]
    with told_in_words(f"hf:{listing.repo}"), disable_progress_bars():
        snapshot_download(listing.repo, revision=listing.commit, allow_patterns=names)
    for source in part.sources:
        file = snapshot.file(source.entry.name)
        if not file.path.is_file() or file.checksum not in (None, source.entry.checksum):
            raise PullFailed(f"{source}: the cache has something else under its name; try again later")
    if listing.revision != listing.commit:
        _point(repo_folder(listing.repo) / "refs" / listing.revision, listing.commit)


def _point(ref: Path, commit: str) -> None:
    if ref.is_file() and ref.read_text(errors="replace") == commit:
        return
    ref.parent.mkdir(parents=True, exist_ok=True)
    new = ref.with_name(f"{ref.name}.{os.getpid()}.tmp")
    new.write_text(commit)
    new.replace(ref)
