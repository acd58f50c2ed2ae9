"""What the engines make of a file of the hub that is not what its publisher made."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
from huggingface_hub import snapshot_download

from backends.base import EngineFailure, FailureReason
from backends.llama_server import LlamaServerSpec
from backends.llama_server import launch_plan as plan_llama_server
from backends.llamacpp_engine import LlamaCppSpec
from backends.llamacpp_engine import launch_plan as plan_llamacpp
from backends.vllm.model_files import local_model, local_tokenizer
from tests.weights.hub import COMMIT, Hub, Repo
from tests.weights.test_pull import MODEL, SECOND, bring
from weights import checked, hub_cache
from weights.reference import HubFile, HubRepo
from weights.refs import resolve

REF = "hf:own/repo/m-Q8_0.gguf"
WANTED = HubFile("own/repo", "m-Q8_0.gguf")
LLM = {"config.json": b"{}", "model.safetensors": SECOND}


@pytest.fixture
def folder(hub: Hub, cache: Path) -> Path:
    """The snapshot of what was pulled: a GGUF and a whole repository for vLLM."""
    hub.repos["own/repo"] = Repo({"m-Q8_0.gguf": MODEL, "mmproj.gguf": SECOND})
    hub.repos["own/llm"] = Repo(LLM)
    bring(WANTED, HubRepo("own/llm"))
    return cache / "models--own--llm" / "snapshots" / COMMIT


def alter(path: Path) -> None:
    content = path.read_bytes()
    path.resolve().write_bytes(content[:-1] + b"?")


@pytest.mark.usefixtures("folder")
def test_an_engine_of_llama_cpp_does_not_start_on_an_altered_file(tmp_path: Path) -> None:
    spec = LlamaCppSpec(weights=REF, alias="m", runtime_dir=tmp_path / "run", n_ctx=512)
    assert str(resolve(REF)) in plan_llamacpp(spec).argv
    alter(resolve(REF))
    with pytest.raises(
        EngineFailure, match=r"is damaged: its checksum is another\. Fetch it again: gguf-server"
    ) as caught:
        plan_llamacpp(spec)
    assert caught.value.reason is FailureReason.WEIGHTS_DAMAGED


@pytest.mark.usefixtures("folder")
def test_a_llama_server_does_not_start_on_a_file_that_is_cut_short(tmp_path: Path) -> None:
    spec = LlamaServerSpec(weights=REF, alias="m", runtime_dir=tmp_path / "run", n_ctx=512, binary="/bin/true")
    assert str(resolve(REF)) in plan_llama_server(spec).argv
    resolve(REF).resolve().write_bytes(MODEL[:-1])
    with pytest.raises(EngineFailure, match="it has 399999 of 400000 bytes") as caught:
        plan_llama_server(spec)
    assert caught.value.reason is FailureReason.WEIGHTS_DAMAGED


def test_vllm_is_given_the_folder_of_a_repository_that_is_all_here(folder: Path) -> None:
    assert local_model("own/llm") == local_model("hf:own/llm") == str(folder)
    assert local_model("own/repo:Q8_0") == str(resolve(REF))


def test_vllm_does_not_start_on_an_altered_repository(folder: Path) -> None:
    alter(folder / "model.safetensors")
    for ref in ("own/llm", "hf:own/llm"):
        with pytest.raises(EngineFailure, match="is damaged") as caught:
            local_model(ref)
        assert caught.value.reason is FailureReason.WEIGHTS_DAMAGED


def test_vllm_fetches_by_itself_what_is_not_all_here_unless_the_cache_was_named(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    assert local_model("own/llm") == "own/llm"
    with pytest.raises(EngineFailure, match="gguf-server pull hf:own/llm") as caught:
        local_model("hf:own/llm")
    assert caught.value.reason is FailureReason.WEIGHTS_MISSING


def test_vllm_is_given_the_folder_of_a_tokenizer_that_is_all_here(hub: Hub, cache: Path) -> None:
    hub.repos["own/llm"] = Repo(LLM)
    assert local_tokenizer("own/llm") == "own/llm"
    bring(HubRepo("own/llm", with_weights=False))
    folder = cache / "models--own--llm" / "snapshots" / COMMIT
    assert local_tokenizer("own/llm") == str(folder)
    assert local_model("own/llm") == "own/llm"
    alter(folder / "config.json")
    with pytest.raises(EngineFailure, match="is damaged"):
        local_tokenizer("own/llm")
    assert [local_tokenizer(ref) for ref in (None, "/a/folder", "o/n:Q8_0")] == [None, "/a/folder", "o/n:Q8_0"]


@pytest.mark.usefixtures("folder")
def test_a_file_that_was_checked_is_not_read_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hub_cache, "checksum_of", None)
    resolve(REF)


@pytest.mark.usefixtures("hub")
def test_a_file_that_something_else_fetched_is_read_once(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.repos["own/repo"] = Repo({"m-Q8_0.gguf": MODEL})
    snapshot_download("own/repo")
    resolve(REF)
    monkeypatch.setattr(hub_cache, "checksum_of", None)
    resolve(REF)


@pytest.mark.usefixtures("folder")
def test_without_a_place_for_marks_files_are_read_each_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "file"))
    bring(WANTED)
    caplog.set_level(logging.INFO, "weights.hub_cache")
    resolve(REF)
    resolve(REF)
    assert [record.message.partition(" (")[0] for record in caplog.records] == [
        "reading m-Q8_0.gguf to its end, to see whether it is whole"
    ] * 2


@pytest.mark.usefixtures("folder")
def test_a_mark_that_is_no_json_counts_as_none() -> None:
    for mark in checked.folder().iterdir():
        mark.write_text("{")
    resolve(REF)
    alter(resolve(REF))
    with pytest.raises(EngineFailure):
        local_model(REF)


def test_a_path_to_one_part_of_a_split_model_needs_the_others(tmp_path: Path) -> None:
    first = tmp_path / "m-00001-of-00002.gguf"
    first.touch()
    with pytest.raises(EngineFailure, match=r"beside it there is no m-00002-of-00002\.gguf"):
        local_model(str(first))
    first.with_name("m-00002-of-00002.gguf").touch()
    assert local_model(str(first)) == str(first)


@pytest.mark.usefixtures("folder")
def test_an_image_encoder_that_is_damaged_is_left_out(tmp_path: Path) -> None:
    bring(HubFile("own/repo", "mmproj.gguf"))
    mmproj = "hf:own/repo/mmproj.gguf"
    spec = LlamaCppSpec(weights=REF, alias="m", runtime_dir=tmp_path / "run", n_ctx=512, mmproj=mmproj)
    assert "--mmproj" in plan_llamacpp(spec).argv
    alter(resolve(mmproj))
    assert "--mmproj" not in plan_llamacpp(spec).argv
