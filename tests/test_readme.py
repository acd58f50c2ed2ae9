"""What the README promises to be true of the configuration and the commands."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from gguf_server import config
from gguf_server.settings import FailoverSettings, Settings

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")


def examples(text: str) -> list[str]:
    found: list[str] = re.findall(r"```toml\n(.*?)```", text, re.DOTALL)
    return found


EXAMPLES = [example for example in examples(README) if "[services." in example]
TABLES = [
    pytest.param(example, id=f"{page.stem} {number}")
    for page in (ROOT / "README.md", *sorted((ROOT / "docs" / "operating").glob("*.md")))
    for number, example in enumerate(examples(page.read_text(encoding="utf-8")))
    if "[services." not in example
]


def read(example: str, folder: Path) -> Settings:
    path = folder / "gguf-server.toml"
    path.write_text(example, encoding="utf-8")
    return config.load(path, environ={})


def test_the_hospitals_example_configuration_is_valid(tmp_path: Path) -> None:
    settings = read(EXAMPLES[0], tmp_path)
    assert list(settings.services) == ["qwen3", "gemma4"]
    assert [engine.kind for engine in settings.services["qwen3"].engines] == ["vllm", "llamacpp", "llamacpp"]
    assert settings.services["gemma4"].paths == ("/gemma4", "/gemma2")


def test_the_failover_settings_shown_are_the_defaults(tmp_path: Path) -> None:
    service = read(EXAMPLES[1], tmp_path).services["qwen3"]
    assert service.standby == "warm"
    assert service.failover == FailoverSettings()


def test_the_engines_of_others_are_valid(tmp_path: Path) -> None:
    engines = read(EXAMPLES[3], tmp_path).services["qwen3"].engines
    assert [engine.kind for engine in engines] == ["llama-server", "openai"]
    assert len(EXAMPLES) == 4


def test_the_settings_shown_of_the_llamacpp_engine_are_valid(tmp_path: Path) -> None:
    services = read(EXAMPLES[2], tmp_path).services
    assert services["gemma4"].engines[0].kind == "llamacpp"
    assert services["gemma4"].image_hosts == ("pacs.example",)
    assert services["search"].task == "embed"


@pytest.mark.parametrize("table", TABLES)
def test_the_settings_shown_beside_the_services_are_valid(table: str, tmp_path: Path) -> None:
    read(table + "\n[services.demo]\n", tmp_path)


def test_the_table_of_services_agrees_with_the_presets() -> None:
    for name in config.preset_names():
        settings = config.load(presets=[name], environ={}).services[name]
        (row,) = re.findall(rf"^\| `{re.escape(name)}` \|(.*)\|$", README, re.MULTILINE)
        shared, port, models = (cell.strip() for cell in row.split("|"))
        assert [path.strip("`") for path in re.findall(r"`[^`]+`", shared)] == [path or "/" for path in settings.paths]
        assert port == (str(settings.port) if settings.port else "")
        assert set(re.findall(r"`([^`]+)`", models)) == settings.model_names
