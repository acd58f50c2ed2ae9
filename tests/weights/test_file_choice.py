"""Which files of a repository are meant."""

from __future__ import annotations

import pytest

from weights.errors import Ambiguous, WeightsMissing
from weights.file_choice import choose, parts_of
from weights.reference import HubFile, HubQuant, HubRepo

MANY = (
    "README.md",
    "gemma-4-E4B-it-Q4_K_M.gguf",
    "gemma-4-E4B-it-Q8_0.gguf",
    "gemma-4-E4B-it-UD-Q4_K_XL.gguf",
    "gemma-4-E4B-it-IQ4_XS.gguf",
    "gemma-4-E4B-it-BF16.gguf",
    "mmproj-gemma-4-E4B-it-Q8_0.gguf",
    "Q6_K/gemma-4-E4B-it-Q6_K-00001-of-00002.gguf",
    "Q6_K/gemma-4-E4B-it-Q6_K-00002-of-00002.gguf",
)


@pytest.mark.parametrize(
    ("quant", "file"),
    [
        ("Q4_K_M", "gemma-4-E4B-it-Q4_K_M.gguf"),
        ("q4_k_m", "gemma-4-E4B-it-Q4_K_M.gguf"),
        ("Q8_0", "gemma-4-E4B-it-Q8_0.gguf"),
        ("UD-Q4_K_XL", "gemma-4-E4B-it-UD-Q4_K_XL.gguf"),
        ("IQ4_XS", "gemma-4-E4B-it-IQ4_XS.gguf"),
        ("bf16", "gemma-4-E4B-it-BF16.gguf"),
    ],
)
def test_a_quantization_is_found_by_its_name(quant: str, file: str) -> None:
    assert choose(MANY, HubQuant("o/n", quant)) == (file,)


def test_a_quantization_written_in_small_letters_after_a_dot_is_found() -> None:
    names = ["Qwen3-14B-Distill.q4_k_m.gguf", "Qwen3-14B-Distill.q8_0.gguf", "Qwen3-14B-Distill.bf16.gguf"]
    assert choose(names, HubQuant("o/n", "Q4_K_M")) == (names[0],)


def test_all_parts_of_a_split_model_are_meant_in_their_order() -> None:
    parts = (MANY[7], MANY[8])
    assert choose(reversed(MANY), HubQuant("o/n", "Q6_K")) == parts
    assert choose(MANY, HubFile("o/n", parts[1])) == parts
    assert parts_of(parts[1]) == parts


def test_a_part_that_is_not_there_is_told() -> None:
    with pytest.raises(WeightsMissing, match=r"1 of 2 parts are not there, such as Q6_K/.*-00002-of-00002\.gguf"):
        choose(MANY[:-1], HubQuant("o/n", "Q6_K"))


def test_a_quantization_that_is_missing_is_told_with_those_that_are_there() -> None:
    with pytest.raises(WeightsMissing, match="has no Q5_K_M; it has BF16, IQ4_XS, Q4_K_M, Q6_K, Q8_0, UD-Q4_K_XL"):
        choose(MANY, HubQuant("o/n", "Q5_K_M"))
    with pytest.raises(WeightsMissing, match="it has no GGUF files"):
        choose(["config.json"], HubQuant("o/n", "Q5_K_M"))


def test_a_quantization_of_two_models_is_ambiguous_and_both_are_named() -> None:
    with pytest.raises(Ambiguous, match=r"may mean 2 files: hf:o/n/a-Q8_0\.gguf, hf:o/n/b-Q8_0\.gguf"):
        choose(["b-Q8_0.gguf", "a-Q8_0.gguf", "a-Q4_0.gguf"], HubQuant("o/n", "Q8_0"))


def test_a_long_list_of_names_is_cut() -> None:
    with pytest.raises(WeightsMissing, match="and 18 more"):
        choose([f"model-{n}.gguf" for n in range(30)], HubFile("o/n", "zzz"))


@pytest.mark.parametrize(
    ("names", "says"),
    [
        (["m-Q4_0.gguf"], "no config.json, so it is nothing that vLLM loads: name a file, or hf:o/n:QUANT"),
        (["config.json"], "no weights"),
        (["config.json", "original/model.safetensors", "optimizer.bin"], "no weights"),
    ],
)
def test_a_repository_that_vllm_could_not_load_is_told(names: list[str], says: str) -> None:
    with pytest.raises(WeightsMissing, match=says):
        choose(names, HubRepo("o/n"))


def test_pickled_weights_are_taken_only_where_there_are_no_others() -> None:
    assert choose(["config.json", "pytorch_model.bin"], HubRepo("o/n")) == ("config.json", "pytorch_model.bin")
    both = ["config.json", "m.safetensors", "pytorch_model.bin"]
    assert choose(both, HubRepo("o/n")) == ("config.json", "m.safetensors")
