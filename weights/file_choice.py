"""Which of a repository's files a reference means. Names in, names out."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Sequence
from fnmatch import fnmatchcase
from typing import Final

from weights.errors import Ambiguous, WeightsMissing
from weights.reference import Hub, HubFile, HubQuant, HubRepo

_PART: Final = re.compile(r"(?P<stem>.+)-(?P<number>\d{5})-of-(?P<count>\d{5})\.gguf", re.IGNORECASE)
_QUANT_IN_NAME: Final = re.compile(
    r"(?:^|[-._/])((?:UD-)?(?:I?Q\d\w*|TQ\d\w*|MXFP4\w*|BF16|F16|F32))(?=[-.]|$)", re.IGNORECASE
)
_WEIGHTS: Final = ("*.safetensors", "*.bin")
_BESIDE_WEIGHTS: Final = ("*.json", "*.txt", "*.model", "*.tiktoken", "*.jinja", "*.py")
_NEVER: Final = ("original/*", "onnx/*", "*/onnx/*", "consolidated*", "*training_args.bin", "*optimizer.bin")
_MOST_NAMES_SHOWN: Final = 12


def choose(names: Iterable[str], wanted: Hub) -> tuple[str, ...]:
    """The files that `wanted` means, the parts of a split one in their order. Raises `WeightsMissing`."""
    present = sorted(names)
    match wanted:
        case HubFile():
            return _file(present, wanted)
        case HubQuant():
            return _quant(present, wanted)
        case HubRepo():
            return _repo(present, wanted)


def parts_of(file: str) -> tuple[str, ...]:
    """The names of all parts of a split GGUF, from the name of any; the file itself where it is not split."""
    split = _PART.fullmatch(file)
    if split is None:
        return (file,)
    count = int(split["count"])
    return tuple(f"{split['stem']}-{number:05}-of-{count:05}.gguf" for number in range(1, count + 1))


def _is_projector(file: str) -> bool:
    """Whether this GGUF is an image encoder; by custom its name says so."""
    return "mmproj" in file.lower()


def _file(present: Sequence[str], wanted: HubFile) -> tuple[str, ...]:
    parts = parts_of(wanted.file)
    absent = [part for part in parts if part not in present]
    if not absent:
        return parts
    if len(absent) < len(parts):
        raise WeightsMissing(f"{wanted}: {len(absent)} of {len(parts)} parts are not there, such as {absent[0]}")
    raise WeightsMissing(f"{wanted}: the repository has no such file{_nearest(wanted.file, present)}")


def _quant(present: Sequence[str], wanted: HubQuant) -> tuple[str, ...]:
    models = [name for name in present if name.lower().endswith(".gguf") and not _is_projector(name)]
    groups = dict.fromkeys(parts_of(name) for name in models)
    named = [(parts, _quant_of(parts[0])) for parts in groups]
    fitting = [parts for parts, quant in named if quant == wanted.quant.upper()]
    if len(fitting) == 1:
        return _file(present, HubFile(wanted.repo, fitting[0][0], wanted.revision))
    if fitting:
        choices = _listed([f"hf:{wanted.repo}/{parts[0]}" for parts in fitting])
        raise Ambiguous(f"{wanted} may mean {len(fitting)} files: {choices}")
    quants = _listed(sorted({quant for _, quant in named if quant}))
    there = f"it has {quants}" if quants else "it has no GGUF files"
    raise WeightsMissing(f"{wanted}: the repository has no {wanted.quant}; {there}")


def _repo(present: Sequence[str], wanted: HubRepo) -> tuple[str, ...]:
    usable = [name for name in present if not _matches(name, _NEVER)]
    beside = [name for name in usable if _matches(name, _BESIDE_WEIGHTS)]
    if "config.json" not in beside:
        hint = f": name a file, or hf:{wanted.repo}:QUANT" if any(".gguf" in name.lower() for name in present) else ""
        raise WeightsMissing(f"{wanted}: the repository has no config.json, so it is nothing that vLLM loads{hint}")
    if not wanted.with_weights:
        return tuple(beside)
    for pattern in _WEIGHTS:
        if found := [name for name in usable if fnmatchcase(name, pattern)]:
            return (*beside, *found)
    raise WeightsMissing(f"{wanted}: the repository has no weights (safetensors)")


def _quant_of(file: str) -> str | None:
    """The last thing in a file's name that is a quantization."""
    found = _QUANT_IN_NAME.findall(re.sub(r"-\d{5}-of-\d{5}", "", file).removesuffix(".gguf").removesuffix(".GGUF"))
    return found[-1].upper() if found else None


def _matches(name: str, patterns: Iterable[str]) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in patterns)


def _nearest(file: str, present: Sequence[str]) -> str:
    by_lower = {name.lower(): name for name in present}
    near = difflib.get_close_matches(file.lower(), by_lower, n=3, cutoff=0.5)
    models = [by_lower[name] for name in near] or [name for name in present if name.lower().endswith(".gguf")]
    return f"; it has {_listed(models)}" if models else ""


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - _MOST_NAMES_SHOWN} more" if len(names) > _MOST_NAMES_SHOWN else ""
    return ", ".join(names[:_MOST_NAMES_SHOWN]) + more
