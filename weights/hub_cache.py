"""What the hub's cache on this machine holds, and whether it is whole. Nothing here asks the hub.

    HF_HUB_CACHE/models--OWNER--NAME/
        refs/REVISION           the commit that a branch or tag led to
        snapshots/COMMIT/FILE   a link to
        blobs/CHECKSUM          the content, or a link to where repositories share it

So a file's checksum is the name of what it links to. Where a file is no link its checksum is not known, and only its
size can be compared.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from weights import checked
from weights.checksums import Advance, checksum_of, is_checksum
from weights.errors import WeightsDamaged, WeightsMissing
from weights.reference import Hub, is_plain_name

_log = logging.getLogger(__name__)


def cache_dir() -> Path:
    from huggingface_hub import constants  # slow to import, and only references to the hub need it

    return Path(constants.HF_HUB_CACHE)


def repo_folder(repo: str) -> Path:
    return cache_dir() / f"models--{repo.replace('/', '--')}"


@dataclass(frozen=True)
class Snapshot:
    """One commit of a repository, as far as the cache has it."""

    repo: str
    path: Path

    @property
    def commit(self) -> str:
        return self.path.name

    @cached_property
    def names(self) -> tuple[str, ...]:
        """The files that are here, by their names in the repository."""
        return tuple(
            sorted(found.relative_to(self.path).as_posix() for found in self.path.rglob("*") if found.is_file())
        )

    def file(self, name: str) -> CachedFile:
        return CachedFile(self, name)

    def sizes(self) -> dict[str, int] | None:
        """Bytes by name of all files of the commit, also of those not here; None where that was never recorded."""
        from huggingface_hub import get_cached_repo_tree
        from huggingface_hub.errors import CachedRepoTreeNotFoundError

        try:
            return {file.path: file.size for file in get_cached_repo_tree(self.repo, revision=self.commit)}
        except (CachedRepoTreeNotFoundError, OSError):
            return None


@dataclass(frozen=True, slots=True)
class CachedFile:
    snapshot: Snapshot
    name: str

    @property
    def path(self) -> Path:
        return self.snapshot.path / self.name

    @property
    def n_bytes(self) -> int:
        return self.path.stat().st_size

    @property
    def checksum(self) -> str | None:
        try:
            target = os.path.basename(os.readlink(self.path))  # noqa: PTH115, PTH119 -- the text of the link, unresolved
        except OSError:  # no link
            return None
        return target if is_checksum(target) else None

    @property
    def is_checked(self) -> bool:
        """Whether it was found whole and nobody has written to it since."""
        checksum = self.checksum
        return checksum is not None and checked.is_marked(self.path, checksum)


def check_whole(file: CachedFile, advance: Advance = lambda _: None, *, again: bool = False) -> None:
    """Raises `WeightsDamaged`, and `WeightsMissing` where the file cannot be read.

    A file without a mark is read to its end, as any is with `again`; else this is quick.
    """
    try:
        _check(file, advance, again)
    except OSError as error:
        raise WeightsMissing(f"{_called(file)} cannot be read: {error}") from error


def _check(file: CachedFile, advance: Advance, again: bool) -> None:
    checksum = file.checksum
    if checksum is not None and not again and checked.is_marked(file.path, checksum):
        return
    _check_size(file)
    if checksum is None:
        return
    _log.info("reading %s to its end, to see whether it is whole (%d bytes)", file.name, file.n_bytes)
    if checksum_of(file.path, checksum, advance) != checksum:
        raise WeightsDamaged(f"{_called(file)} is damaged: its checksum is another. {_mend(file)}")
    checked.mark(file.path, checksum)


def snapshots(wanted: Hub) -> Iterator[Snapshot]:
    """What may hold the files: the commit that the revision led to; where none was asked for, then all the others.

    The others come newest first: a pull of one file moves the default branch on, and the rest stays where it was.
    """
    folder = repo_folder(wanted.repo)
    revision = wanted.revision or "main"
    commit = _commit(folder, revision)
    if is_plain_name(commit) and (folder / "snapshots" / commit).is_dir():
        yield Snapshot(wanted.repo, folder / "snapshots" / commit)
    if wanted.revision is None and (folder / "snapshots").is_dir():
        others = [path for path in (folder / "snapshots").iterdir() if path.name != commit and path.is_dir()]
        for path in sorted(others, key=lambda path: path.stat().st_mtime, reverse=True):
            yield Snapshot(wanted.repo, path)


def _commit(folder: Path, revision: str) -> str:
    ref = folder / "refs" / revision
    return ref.read_text(errors="replace").strip() if ref.is_file() else revision


def _check_size(file: CachedFile) -> None:
    expected = (file.snapshot.sizes() or {}).get(file.name)
    if expected is not None and file.n_bytes != expected:
        told = f"it has {file.n_bytes} of {expected} bytes"
        raise WeightsDamaged(f"{_called(file)} is damaged: {told}. {_mend(file)}")


def _called(file: CachedFile) -> str:
    return f"{file.name} of {file.snapshot.repo}"


def _mend(file: CachedFile) -> str:
    return f"Fetch it again: gguf-server pull hf:{file.snapshot.repo}/{file.name}@{file.snapshot.commit}"
