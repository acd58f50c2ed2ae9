"""What the hub's cache on this machine holds, as somebody would name it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from weights.checksums import is_checksum
from weights.errors import WeightsMissing
from weights.file_choice import parts_of
from weights.hub_cache import CachedFile, Snapshot, cache_dir
from weights.reference import Hub, HubFile, HubRepo
from weights.refs import cached_files


class State(StrEnum):
    WHOLE = "whole"  # every checksum was found right, and nothing was written to since
    UNCHECKED = "not checked"  # something else fetched it, or wrote to it
    INCOMPLETE = "incomplete"  # files or parts are missing, or shorter than they should be
    UNFINISHED = "unfinished"  # a download that was interrupted


@dataclass(frozen=True, slots=True)
class CachedModel:
    """A GGUF with its parts, or all else of a repository. `n_bytes` is what is on the disk."""

    wanted: Hub
    files: tuple[CachedFile, ...]
    n_bytes: int
    state: State


def cached_models() -> Iterator[CachedModel]:
    """Everything of the cache that is a model's, repository by repository. Reads no file to its end."""
    for folder in sorted(cache_dir().glob("models--*--*")):
        repo = folder.name.removeprefix("models--").replace("--", "/")
        seen: set[str | None] = set()
        for snapshot, revision in _snapshots(folder, repo):
            for wanted, names in _groups(snapshot, revision):
                files = tuple(snapshot.file(name) for name in names)
                if not seen.issuperset(sums := {file.checksum for file in files}) or None in sums:
                    yield CachedModel(wanted, files, sum(file.n_bytes for file in files), _state(wanted, files))
                seen |= sums
        if n_left := sum(path.stat().st_size for path in folder.glob("blobs/*.incomplete")):
            yield CachedModel(HubRepo(repo), (), n_left, State.UNFINISHED)


def files_to_verify(wanted: Hub | None) -> Sequence[CachedFile]:
    """Every file of the cache, or those that `wanted` means; of a repository all. Raises `WeightsMissing`."""
    if wanted is not None and not isinstance(wanted, HubRepo):
        return cached_files(wanted)
    models = [model for model in cached_models() if wanted is None or model.wanted.repo == wanted.repo]
    files = [file for model in models for file in model.files]
    if wanted is not None and not files:
        raise WeightsMissing(f"{wanted} is not in the hub cache: gguf-server pull {wanted}")
    return files


def _snapshots(folder: Path, repo: str) -> Iterator[tuple[Snapshot, str | None]]:
    """With what to call their revision; the default branch, which needs no name, first."""
    refs = {path.read_text(errors="replace").strip(): path for path in (folder / "refs").rglob("*") if path.is_file()}
    names = {commit: path.relative_to(folder / "refs").as_posix() for commit, path in refs.items()}
    commits = [path for path in (folder / "snapshots").glob("*") if path.is_dir() and is_checksum(path.name)]
    for path in sorted(commits, key=lambda path: (names.get(path.name) != "main", path.name)):
        revision = names.get(path.name, path.name)
        yield Snapshot(repo, path), None if revision == "main" else revision


def _groups(snapshot: Snapshot, revision: str | None) -> Iterator[tuple[Hub, Sequence[str]]]:
    ggufs = [name for name in snapshot.names if name.lower().endswith(".gguf")]
    for parts in dict.fromkeys(parts_of(name) for name in ggufs):
        present = [part for part in parts if part in ggufs]
        yield HubFile(snapshot.repo, parts[0], revision), present
    if others := [name for name in snapshot.names if name not in ggufs]:
        yield HubRepo(snapshot.repo, revision), others


def _state(wanted: Hub, files: Sequence[CachedFile]) -> State:
    names = [file.name for file in files]
    if isinstance(wanted, HubFile) and len(parts_of(wanted.file)) > len(names):
        return State.INCOMPLETE
    if all(file.is_checked for file in files):
        return State.WHOLE
    sizes = files[0].snapshot.sizes() or {}
    if any(sizes.get(file.name, file.n_bytes) != file.n_bytes for file in files):
        return State.INCOMPLETE
    return State.UNCHECKED
