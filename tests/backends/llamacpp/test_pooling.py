from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import cast

import pytest

from backends.llamacpp.native import Model, NativeError
from backends.llamacpp.pooling import pooling_of


@dataclass
class FakeModel:
    """A model as far as its metadata is asked for."""

    pairs: Mapping[str, str] = field(default_factory=dict)
    has_decoder: bool = True

    def metadata(self, key: str) -> str | None:
        return self.pairs.get(key)


def pooling(model: FakeModel, *, wanted: bool = False) -> str | None:
    return pooling_of(cast(Model, model), wanted=wanted)


@pytest.mark.parametrize(("type_", "name"), [("1", "mean"), ("2", "cls"), ("3", "last")])
def test_model_is_pooled_as_its_file_says(type_: str, name: str) -> None:
    model = FakeModel({"{arch}.pooling_type": type_})
    assert pooling(model) == pooling(model, wanted=True) == name


def test_model_that_says_nothing_generates_unless_vectors_are_wanted() -> None:
    for model in (FakeModel(), FakeModel({"{arch}.pooling_type": "0"})):
        assert pooling(model) is None
        assert pooling(model, wanted=True) == "last"


def test_encoder_that_says_nothing_gives_the_mean() -> None:
    assert pooling(FakeModel({"{arch}.attention.causal": "false"})) == "mean"
    assert pooling(FakeModel(has_decoder=False), wanted=True) == "mean"


def test_model_that_only_ranks_is_unsupported() -> None:
    with pytest.raises(NativeError, match="ranks texts") as raised:
        pooling(FakeModel({"{arch}.pooling_type": "4"}))
    assert "unsupported" in raised.value.log[0]
