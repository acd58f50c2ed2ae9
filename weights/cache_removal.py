"""Taking files out of the hub's cache, by the client's own rules: repositories may share what they hold."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from huggingface_hub import HFCacheInfo, scan_cache_dir

from weights.errors import WeightsMissing
from weights.hub_cache import cache_dir, repo_folder
from weights.reference import Hub, HubRepo
from weights.refs import cached_files


@dataclass(frozen=True, slots=True)
class Removal:
    """What would go. `n_bytes` is what the disk gains: less than the files' sizes where others share them."""

    wanted: Hub
    names: tuple[str, ...]
    n_bytes: int
    execute: Callable[[], None]


def remove_file(repo: str, blob: Path) -> None:
    """Drops a file that is not whole, with all that leads to it. Raises OSError."""
    cache = scan_cache_dir(cache_dir())
    same = blob.parent.resolve() / blob.name
    leading = [
        file
        for cached in cache.repos
        if cached.repo_id == repo
        for commit in cached.revisions
        for file in commit.files
        if file.blob_path == same
    ]
    cache.delete_files(*leading).execute()
    blob.unlink(missing_ok=True)  # nothing led to it


def plan_removal(wanted: Hub) -> Removal:
    """Raises `WeightsMissing` where the cache has no such thing."""
    if not repo_folder(wanted.repo).is_dir():
        raise WeightsMissing(f"{wanted} is not in the hub's cache")
    cache = scan_cache_dir(cache_dir())
    return _whole_repo(cache, wanted) if isinstance(wanted, HubRepo) else _files(cache, wanted)


def leftovers(repo: str) -> Sequence[Path]:
    """Downloads of the repository that were never finished."""
    return sorted((repo_folder(repo) / "blobs").glob("*.incomplete"))


def _whole_repo(cache: HFCacheInfo, wanted: HubRepo) -> Removal:
    """All revisions, unless one is named; what was never finished goes along."""
    commits = [commit for cached in cache.repos if cached.repo_id == wanted.repo for commit in cached.revisions]
    if wanted.revision is not None:
        commits = [commit for commit in commits if wanted.revision in (commit.commit_hash, *commit.refs)]
        if not commits:
            raise WeightsMissing(f"{wanted} is not in the hub's cache")
    unfinished = leftovers(wanted.repo) if wanted.revision is None else ()
    strategy = cache.delete_revisions(*(commit.commit_hash for commit in commits))
    n_bytes = strategy.expected_freed_size + sum(path.stat().st_size for path in unfinished)

    def execute() -> None:
        for path in unfinished:
            path.unlink(missing_ok=True)
        strategy.execute()

    names = {file.file_path.relative_to(commit.snapshot_path).as_posix() for commit in commits for file in commit.files}
    return Removal(wanted, tuple(sorted(names)), n_bytes, execute)


def _files(cache: HFCacheInfo, wanted: Hub) -> Removal:
    names = {file.name for file in cached_files(wanted)}
    chosen = [
        file
        for cached in cache.repos
        if cached.repo_id == wanted.repo
        for commit in cached.revisions
        if wanted.revision in (None, commit.commit_hash, *commit.refs)
        for file in commit.files
        if file.file_path.relative_to(commit.snapshot_path).as_posix() in names
    ]
    strategy = cache.delete_files(*chosen)
    return Removal(wanted, tuple(sorted(names)), strategy.expected_freed_size, strategy.execute)
