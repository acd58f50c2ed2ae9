from __future__ import annotations

from collections.abc import Mapping

import pytest

from backends.base import EngineFailure, FailureReason
from backends.vllm.interpreter import Installed
from backends.vllm.plugins import Needs, check, check_architecture, is_tested, needs, release
from backends.vllm.spec import Quantization
from tests.backends.vllm_installation import ALL, PLAIN

GGUF = Needs(("vllm-gguf-plugin",), "gguf")
BNB_PLUGIN = Needs(("vllm-bnb-plugin", "bitsandbytes"), "bitsandbytes")
BNB = Needs(("bitsandbytes",))


def has(**versions: str) -> Installed:
    return Installed(True, {name.replace("_", "-"): version for name, version in versions.items()})


def checked(found: Installed, quantization: Quantization | None, environ: Mapping[str, str] | None = None) -> Needs:
    return check(found, quantization, python="py", environ=environ or {})


@pytest.mark.parametrize(
    ("version", "numbers"),
    [
        ("0.32.0", (0, 32, 0)),
        ("0.32.0+cpu", (0, 32, 0)),
        ("0.33.0rc1", (0, 33, 0)),
        ("0.24.1.dev3+gabc", (0, 24, 1)),
        ("1.0", (1, 0)),
        ("0.1.dev1+gabc", None),
        ("dev", None),
        (None, None),
    ],
)
def test_a_version_is_its_numbers(version: str | None, numbers: tuple[int, ...] | None) -> None:
    assert release(version) == numbers


@pytest.mark.parametrize(
    ("version", "gguf", "bitsandbytes"),
    [
        ("0.23.0", Needs(), BNB),
        ("0.23.9", Needs(), BNB),
        ("0.24.0", GGUF, BNB),
        ("0.27.1", GGUF, BNB),
        ("0.28.0", GGUF, BNB_PLUGIN),
        ("0.32.0+cpu", GGUF, BNB_PLUGIN),
        ("0.33.0", GGUF, BNB_PLUGIN),
        ("0.40.0", GGUF, BNB_PLUGIN),
        (None, GGUF, BNB_PLUGIN),
    ],
)
def test_the_matrix(version: str | None, gguf: Needs, bitsandbytes: Needs) -> None:
    assert needs(release(version), "gguf") == gguf
    assert needs(release(version), "bitsandbytes") == bitsandbytes
    assert needs(release(version), "awq") == needs(release(version), None) == Needs()


@pytest.mark.parametrize("quantization", ["gguf", "bitsandbytes", "awq", None])
def test_with_everything_installed_each_model_has_its_plugin(quantization: Quantization | None) -> None:
    plugin = quantization if quantization in ("gguf", "bitsandbytes") else ""
    assert checked(Installed(True, ALL), quantization).plugin == plugin


@pytest.mark.parametrize(
    ("quantization", "packages"),
    [("gguf", "vllm-gguf-plugin"), ("bitsandbytes", "vllm-bnb-plugin bitsandbytes"), (None, "'vllm>=0.32'")],
)
def test_missing_vllm_comes_with_the_command_that_mends_it(quantization: Quantization, packages: str) -> None:
    with pytest.raises(EngineFailure, match=rf"py has no vLLM: py -m pip install .*{packages}$") as caught:
        checked(Installed(False, {}), quantization)
    assert caught.value.reason is FailureReason.NOT_INSTALLED


@pytest.mark.parametrize(
    ("found", "quantization", "missing"),
    [
        (has(vllm="0.32.0"), "gguf", "vllm-gguf-plugin"),
        (has(vllm="0.32.0", bitsandbytes="0.50.2"), "bitsandbytes", "vllm-bnb-plugin"),
        (has(vllm="0.32.0"), "bitsandbytes", "vllm-bnb-plugin bitsandbytes"),
        (has(vllm="0.27.1", vllm_bnb_plugin="0.0.3"), "bitsandbytes", "bitsandbytes"),
    ],
)
def test_a_missing_plugin_comes_with_the_command_too(
    found: Installed, quantization: Quantization, missing: str
) -> None:
    with pytest.raises(EngineFailure, match=rf"for this model: py -m pip install {missing}$") as caught:
        checked(found, quantization)
    assert caught.value.reason is FailureReason.NOT_INSTALLED


def test_a_vllm_older_than_the_table_is_refused() -> None:
    with pytest.raises(EngineFailure, match=r"vLLM 0\.22\.1 is older than 0\.23") as caught:
        checked(has(vllm="0.22.1"), None)
    assert caught.value.reason is FailureReason.NOT_INSTALLED


def test_a_newer_vllm_and_one_without_a_version_are_let_through_as_not_tested() -> None:
    for found in (has(vllm="0.34.0"), has(vllm="1.0.0"), Installed(True, {})):
        checked(found, None)
        assert not is_tested(found)
    assert all(is_tested(has(vllm=version)) for version in ("0.23.0", "0.32.0+cpu", "0.33.4"))


def test_the_bitsandbytes_plugin_is_not_loaded_beside_a_vllm_that_needs_none() -> None:
    found = has(vllm="0.27.1", vllm_bnb_plugin="0.0.3", bitsandbytes="0.50.2")
    assert checked(found, "bitsandbytes").plugin == ""
    with pytest.raises(EngineFailure, match=r"does not go with vLLM 0\.27\.1") as caught:
        checked(found, None, {"VLLM_PLUGINS": "mine,bitsandbytes"})
    assert caught.value.reason is FailureReason.INVALID_SETTINGS


@pytest.mark.parametrize("architecture", ["llama", "granite", "smollm3", "gemma4"])
def test_a_gguf_that_would_come_out_wrong_is_refused_with_the_way_out(architecture: str) -> None:
    with pytest.raises(EngineFailure, match=f"{architecture}.*; use the llama.cpp engine") as caught:
        check_architecture(Installed(True, ALL), architecture)
    assert caught.value.reason is FailureReason.UNSUPPORTED_MODEL


@pytest.mark.parametrize("architecture", ["qwen2", "qwen3", "gemma3", "phi3", "olmoe"])
def test_a_gguf_that_comes_out_right_is_not(architecture: str) -> None:
    check_architecture(Installed(True, ALL), architecture)


def test_vllm_up_to_0_23_reckons_with_llama_and_knows_no_gemma4() -> None:
    check_architecture(has(vllm="0.23.0", vllm_gguf_plugin="0.0.5"), "llama")
    with pytest.raises(EngineFailure, match=r"vLLM 0\.23\.0 cannot load"):
        check_architecture(has(vllm="0.23.0"), "gemma4")


def test_a_newer_plugin_is_believed_to_be_right() -> None:
    check_architecture(has(vllm="0.33.0", vllm_gguf_plugin="0.0.6"), "llama")
    check_architecture(Installed(True, PLAIN), "llama")
