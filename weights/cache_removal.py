"""Taking files out of the hub's cache, by the client's own rules: repositories may share what they hold."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from huggingface_hub import CachedFileInfo, CachedRevisionInfo, HFCacheInfo, scan_cache_dir

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


def plan_removal(wanted: Hub) -> Removal:
    """Raises `WeightsMissing` where the cache has no such thing."""
    if not repo_folder(wanted.repo).is_dir():
        raise WeightsMissing(f"{wanted} is not in the hub cache")
    cache = _scan(wanted.repo)
    return _whole_repo(cache, wanted) if isinstance(wanted, HubRepo) else _files(cache, wanted)


def _scan(repo: str) -> HFCacheInfo:
    """Of this repository alone: the client knows commits by their hash, whichever repository they are of."""
    cache = scan_cache_dir(cache_dir())
    return replace(cache, repos=frozenset(cached for cached in cache.repos if cached.repo_id == repo))


def _commits(cache: HFCacheInfo) -> list[CachedRevisionInfo]:
    return [commit for cached in cache.repos for commit in cached.revisions]


def _whole_repo(cache: HFCacheInfo, wanted: HubRepo) -> Removal:
    """All revisions, unless one is named; what was never finished goes along."""
    commits = [c for c in _commits(cache) if wanted.revision in (None, c.commit_hash, *c.refs)]
    if not commits and wanted.revision is not None:
        raise WeightsMissing(f"{wanted} is not in the hub cache")
    blobs = repo_folder(wanted.repo) / "blobs"
    unfinished = sorted(blobs.glob("*.incomplete")) if wanted.revision is None else []
    strategy = cache.delete_revisions(*(commit.commit_hash for commit in commits))
    n_bytes = strategy.expected_freed_size + sum(path.stat().st_size for path in unfinished)

    def execute() -> None:
        for path in unfinished:
            path.unlink(missing_ok=True)
        strategy.execute()

    names = {_name(file, commit) for commit in commits for file in commit.files}
    return Removal(wanted, tuple(sorted(names)), n_bytes, execute)


def _files(cache: HFCacheInfo, wanted: Hub) -> Removal:
    names = {file.name for file in cached_files(wanted)}
    chosen = [
        file
        for commit in _commits(cache)
        if wanted.revision in (None, commit.commit_hash, *commit.refs)
        for file in commit.files
        if _name(file, commit) in names
    ]
    strategy = cache.delete_files(*chosen)
    return Removal(wanted, tuple(sorted(names)), strategy.expected_freed_size, strategy.execute)


def _name(file: CachedFileInfo, commit: CachedRevisionInfo) -> str:
    return file.file_path.relative_to(commit.snapshot_path).as_posix()
