"""What each version of vLLM needs beside it, and which GGUF files no version of it gets right.

    vLLM            GGUF                bitsandbytes                       AWQ and what else is in config.json
    older           refused: not looked at
    0.23            in vLLM             in vLLM, with bitsandbytes         in vLLM
    0.24 to 0.27    vllm-gguf-plugin    in vLLM, with bitsandbytes         in vLLM
    0.28 to 0.33    vllm-gguf-plugin    vllm-bnb-plugin, bitsandbytes      in vLLM
    newer           as 0.33, with a warning

Read in the wheels of 0.23.0, 0.24.0, 0.27.1, 0.28.0 and 0.33.0, run on 0.32.0. Only the plugin that is needed is
loaded: each changes every model's arguments, and vllm-bnb-plugin registers twice what vLLM up to 0.27 has itself.

llama.cpp's converter reorders the rows of the q and k projections of some architectures. vLLM up to 0.23 reckoned with
it for `llama`; the plugin up to 0.0.5 does not, loads the file without a word and answers with garbage. It was seen
for `llama`, which Mistral's models are called too; for the others it follows from the converter.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from backends.base import EngineFailure, FailureReason
from backends.vllm.interpreter import Installed
from backends.vllm.spec import Quantization

_Release = tuple[int, ...]

_OLDEST: Final[_Release] = (0, 23)
_NEWEST: Final[_Release] = (0, 33)
TESTED: Final = "0.23 to 0.33"
_GGUF_LEFT: Final[_Release] = (0, 24)
_BNB_LEFT: Final[_Release] = (0, 28)
_LAST_WRONG_GGUF_PLUGIN: Final[_Release] = (0, 0, 5)

_GGUF_PLUGIN, _BNB_PLUGIN = "vllm-gguf-plugin", "vllm-bnb-plugin"
MAY_NEED: Final[Mapping[Quantization | None, tuple[str, ...]]] = {
    "gguf": (_GGUF_PLUGIN,),
    "bitsandbytes": (_BNB_PLUGIN, "bitsandbytes"),
}
"""What some version needs for this quantization."""

_REORDERED: Final = frozenset(
    ("llama", "arcee", "baichuan", "granite", "granitemoe", "minicpm", "mistral3", "olmo", "smollm3", "xverse")
)
_NOT_KNOWN: Final = frozenset(("gemma4",))


@dataclass(frozen=True, slots=True)
class Needs:
    """Distributions that must be there, and the plugin (the name of its entry point) that is to be loaded."""

    distributions: tuple[str, ...] = ()
    plugin: str = ""


def release(version: str | None) -> _Release | None:
    """The numbers of a version; None where there is none, or a build of the sources that carries no real one."""
    found = re.match(r"\d+(\.\d+)+", version or "")
    numbers = tuple(map(int, found[0].split("."))) if found else None
    return None if numbers is None or (numbers[:2] == (0, 1) and ".dev" in (version or "")) else numbers


def needs(vllm: _Release | None, quantization: Quantization | None) -> Needs:
    """The row of the table; a version that is not known counts as the newest."""
    if quantization == "gguf" and (vllm is None or vllm >= _GGUF_LEFT):
        return Needs((_GGUF_PLUGIN,), "gguf")
    if quantization == "bitsandbytes":
        if vllm is None or vllm >= _BNB_LEFT:
            return Needs((_BNB_PLUGIN, "bitsandbytes"), "bitsandbytes")
        return Needs(("bitsandbytes",))
    return Needs()


def check(found: Installed, quantization: Quantization | None, *, python: str, environ: Mapping[str, str]) -> Needs:
    """What is to be loaded. Raises `EngineFailure` where something is missing, too old, or in the way."""
    vllm = release(found.vllm_version)
    need = needs(vllm, quantization)
    if not found.has_vllm:
        raise EngineFailure(FailureReason.NOT_INSTALLED, f"{python} has no vLLM: {_install(python, need)}")
    if vllm is not None and vllm < _OLDEST:
        detail = f"vLLM {found.vllm_version} is older than 0.23: {_install(python, need)}"
        raise EngineFailure(FailureReason.NOT_INSTALLED, detail)
    missing = [name for name in need.distributions if name not in found.versions]
    if missing and found.vllm_version is not None:
        how = f"{python} -m pip install {' '.join(missing)}"
        detail = f"vLLM {found.vllm_version} needs {' and '.join(missing)} for this model: {how}"
        raise EngineFailure(FailureReason.NOT_INSTALLED, detail)
    chosen = environ.get("VLLM_PLUGINS", "").split(",")
    if "bitsandbytes" in chosen and _BNB_PLUGIN in found.versions and vllm is not None and vllm < _BNB_LEFT:
        detail = f"{_BNB_PLUGIN} does not go with vLLM {found.vllm_version}, and VLLM_PLUGINS asks for it"
        raise EngineFailure(FailureReason.INVALID_SETTINGS, detail)
    return need


def is_tested(found: Installed) -> bool:
    """Whether the table speaks of this version."""
    vllm = release(found.vllm_version)
    return vllm is not None and _OLDEST <= vllm[:2] <= _NEWEST


def check_architecture(found: Installed, architecture: str) -> None:
    """Raises `EngineFailure` for a GGUF that this vLLM would not load, or load and answer with garbage."""
    vllm, plugin = release(found.vllm_version), release(found.versions.get(_GGUF_PLUGIN))
    is_in_tree = vllm is not None and vllm < _GGUF_LEFT
    if not is_in_tree and (plugin is None or plugin > _LAST_WRONG_GGUF_PLUGIN):
        return
    loader = f"vLLM {found.vllm_version}" if is_in_tree else f"{_GGUF_PLUGIN} {found.versions[_GGUF_PLUGIN]}"
    if architecture in _NOT_KNOWN:
        why = f"{loader} cannot load a GGUF of the architecture {architecture}"
    elif architecture in _REORDERED and not (is_in_tree and architecture == "llama"):
        why = (
            f"{loader} answers with garbage from a GGUF of the architecture {architecture}: it mixes up attention rows"
        )
    else:
        return
    raise EngineFailure(FailureReason.UNSUPPORTED_MODEL, f"{why}; use the llama.cpp engine for this file")


def _install(python: str, need: Needs) -> str:
    return " ".join((f"{python} -m pip install 'vllm>=0.32'", *need.distributions))
