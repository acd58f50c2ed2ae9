"""What a repository on the hub holds."""

from __future__ import annotations

from dataclasses import dataclass

from huggingface_hub import HfApi
from huggingface_hub.hf_api import RepoFile

from weights.checksums import is_checksum
from weights.errors import PullFailed
from weights.file_choice import choose
from weights.hub_errors import hub, told_in_words
from weights.reference import Hub, is_plain_name


@dataclass(frozen=True, slots=True)
class HubEntry:
    """One file as the hub announces it; `checksum` is as `weights.checksums` has them."""

    name: str
    n_bytes: int
    checksum: str


@dataclass(frozen=True, slots=True)
class Listing:
    """All files of one commit; `revision` is the branch or tag that led to it."""

    repo: str
    revision: str
    commit: str
    entries: tuple[HubEntry, ...]

    def choose(self, wanted: Hub) -> tuple[HubEntry, ...]:
        """Raises `WeightsMissing` where the repository does not have what is wanted."""
        by_name = {entry.name: entry for entry in self.entries}
        return tuple(by_name[name] for name in choose(by_name, wanted))


def list_files(repo: str, revision: str | None) -> Listing:
    """Asks the hub. Raises `PullFailed`."""
    api = HfApi()
    revision = revision or "main"
    try:
        with told_in_words(f"hf:{repo}@{revision}" if revision != "main" else f"hf:{repo}"):
            commit = api.repo_info(repo, revision=revision).sha
            tree = list(api.list_repo_tree(repo, recursive=True, revision=commit))
    except (ValueError, KeyError, TypeError, AttributeError) as error:  # the client takes what it gets for good
        raise PullFailed(f"what answers at {hub()} does not speak as the hub does: {error!r}") from error
    if not (isinstance(commit, str) and is_checksum(commit) and len(commit) == 40):
        raise PullFailed(f"what answers at {hub()} names no commit of {repo}")
    entries = tuple(_entry(file) for file in tree if isinstance(file, RepoFile))
    return Listing(repo, revision, commit, entries)


def _entry(file: RepoFile) -> HubEntry:
    name, n_bytes = file.path, file.lfs.size if file.lfs else file.size
    checksum = file.lfs.sha256 if file.lfs else file.blob_id
    if not _can_be(name, n_bytes, checksum):
        raise PullFailed(f"what answers at {hub()} lists a file that cannot be: {name!r}, {n_bytes!r} bytes")
    return HubEntry(name, n_bytes, checksum)


def _can_be(name: object, n_bytes: object, checksum: object) -> bool:
    """The client passes on whatever the hub sent; the name and the checksum become parts of paths."""
    if not (isinstance(name, str) and isinstance(n_bytes, int) and isinstance(checksum, str)):
        return False
    return is_plain_name(name) and n_bytes >= 0 and is_checksum(checksum)
