"""How model files are named.

    hf:OWNER/REPO/FILE[@REVISION]    one file of a repository on the hub; of a split file the first part names all
    hf:OWNER/REPO:QUANT[@REVISION]   the GGUF of that repository with this quantization, such as Q4_K_M
    hf:OWNER/REPO[@REVISION]         a whole repository, as vLLM loads it
    pkg:NAME                         the GGUF inside an installed Python package
    anything else                    a path

A revision is a branch, a tag or a commit; without one the default branch is meant.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from weights.errors import WeightsMissing

_FORMS: Final = "hf:OWNER/REPO/FILE[@REVISION], hf:OWNER/REPO:QUANT[@REVISION] or hf:OWNER/REPO[@REVISION]"
_NAME: Final = re.compile(r"[A-Za-z0-9_](?:[A-Za-z0-9_.-]*[A-Za-z0-9_])?")  # as the hub wants owners and repositories
_QUANT: Final = re.compile(r"[A-Za-z0-9_.-]+")


@dataclass(frozen=True, slots=True)
class HubFile:
    repo: str
    file: str
    revision: str | None = None

    def __str__(self) -> str:
        return f"hf:{self.repo}/{self.file}{_at(self.revision)}"


@dataclass(frozen=True, slots=True)
class HubQuant:
    repo: str
    quant: str
    revision: str | None = None

    def __str__(self) -> str:
        return f"hf:{self.repo}:{self.quant}{_at(self.revision)}"


@dataclass(frozen=True, slots=True)
class HubRepo:
    """`with_weights` is False where only the tokenizer and the configuration are wanted, beside a GGUF."""

    repo: str
    revision: str | None = None
    with_weights: bool = True

    def __str__(self) -> str:
        return f"hf:{self.repo}{_at(self.revision)}"


@dataclass(frozen=True, slots=True)
class Packaged:
    package: str

    def __str__(self) -> str:
        return f"pkg:{self.package}"


@dataclass(frozen=True, slots=True)
class LocalPath:
    path: str

    def __str__(self) -> str:
        return self.path


Hub = HubFile | HubQuant | HubRepo
Reference = Hub | Packaged | LocalPath


def parse(ref: str) -> Reference:
    """Raises `WeightsMissing` for what begins as a reference to the hub and is none."""
    if ref.startswith("hf:"):
        return _parse_hub(ref.removeprefix("hf:"))
    if ref.startswith("pkg:"):
        return Packaged(ref.removeprefix("pkg:"))
    return LocalPath(ref)


def parse_model(ref: str) -> Reference:
    """The same, where `OWNER/NAME` and `OWNER/NAME:QUANT` are the hub's, as vLLM has it."""
    is_path = ref.startswith(("/", ".", "~")) or ref.endswith(".gguf")
    if is_path or ref.startswith(("hf:", "pkg:")) or ref.count("/") != 1:
        return parse(ref)
    return _parse_hub(ref)


def is_plain_name(file: str) -> bool:
    """Whether a repository's file may be called so: a relative path that leads into no other folder."""
    return file.isprintable() and "\\" not in file and all(part not in ("", ".", "..") for part in file.split("/"))


def _parse_hub(text: str) -> Hub:
    body, _, revision = text.partition("@")
    owner, _, rest = body.partition("/")
    name, slash, file = rest.partition("/")
    name, colon, quant = name.partition(":")
    is_named = all(_NAME.fullmatch(part) and "--" not in part and ".." not in part for part in (owner, name))
    is_revision_fine = is_plain_name(revision) if "@" in text else True
    is_file_fine = is_plain_name(file) and not colon if slash else True
    is_quant_fine = _QUANT.fullmatch(quant) is not None if colon else True
    if not (is_named and is_revision_fine and is_file_fine and is_quant_fine):
        raise WeightsMissing(f"hf:{text} is not of the form {_FORMS}")
    if slash:
        return HubFile(f"{owner}/{name}", file, revision or None)
    if colon:
        return HubQuant(f"{owner}/{name}", quant, revision or None)
    return HubRepo(f"{owner}/{name}", revision or None)


def _at(revision: str | None) -> str:
    return f"@{revision}" if revision else ""
