"""The operator's guides: the same in both languages, and true to the program in every name that they give."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from itertools import zip_longest
from pathlib import Path

import pytest

from backends.base import FailureReason
from gguf_server import config, errors
from gguf_server.config_problems import every_setting
from gguf_server.settings.engines import (
    LlamaCppEngineSettings,
    LlamaServerEngineSettings,
    OpenAIEngineSettings,
    VllmEngineSettings,
)
from tests.operating.program import OPERATING, command_exists

ROOT = OPERATING.parents[1]
GUIDES = {language: (OPERATING / f"guide.{language}.md").read_text(encoding="utf-8") for language in ("en", "vi")}
SOURCES = "\n".join(
    path.read_text(encoding="utf-8") for folder in ("gguf_server", "backends") for path in (ROOT / folder).rglob("*.py")
)
SETTINGS = {".".join(path) for path, _ in every_setting(("qwen3", "gemma4"))}
ENGINES = (LlamaCppEngineSettings, LlamaServerEngineSettings, OpenAIEngineSettings, VllmEngineSettings)
LEAVES = {setting.rpartition(".")[2] for setting in SETTINGS}.union(*(engine.model_fields for engine in ENGINES))
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
NAME = re.compile(r"[a-z]+(?:_[a-z0-9]+)+")

each_guide = pytest.mark.parametrize("guide", GUIDES.values(), ids=GUIDES)


def prose(guide: str) -> str:
    return BLOCK.sub("", guide)


def inline(text: str) -> list[str]:
    return re.findall(r"`([^`\n]+)`", text)


def sections(guide: str) -> list[str]:
    """The texts below the headings, without their blocks."""
    return re.split(r"^#+ .*$", prose(guide), flags=re.MULTILINE)


def without_comments(block: str) -> list[str]:
    return [re.sub(r"\s+# .*$", "", line) for line in block.splitlines()]


def commands(guide: str) -> Iterator[list[str]]:
    """What is asked of gguf-server, word by word."""
    lines = [line for _, block in BLOCK.findall(guide) for line in without_comments(block)]
    for line in [*lines, *inline(prose(guide))]:
        found = re.search(r"(?:^gs|bin/gguf-server|run --rm gateway|^gguf-server) ([a-z].*)", line)
        if found and '"$@"' not in line:
            yield shlex.split(re.split(r" [|>&]", found[1])[0])


def test_both_guides_have_the_same_headings() -> None:
    levels = {name: re.findall(r"^(#+ [\d.]*)", guide, re.MULTILINE) for name, guide in GUIDES.items()}
    assert levels["en"] == levels["vi"]
    assert len(levels["en"]) > 20


def test_both_guides_type_the_same() -> None:
    """Comments aside, which are in the reader's language."""
    english, vietnamese = (BLOCK.findall(guide) for guide in GUIDES.values())
    for (kind, ours), (other_kind, theirs) in zip_longest(english, vietnamese, fillvalue=("", "")):
        assert kind == other_kind
        assert without_comments(ours) == without_comments(theirs)


def test_both_guides_name_the_same_things_in_each_section() -> None:
    for ours, theirs in zip_longest(*map(sections, GUIDES.values()), fillvalue=""):
        assert sorted(set(inline(ours))) == sorted(set(inline(theirs)))
        assert ours.count("\n|") == theirs.count("\n|")


def test_the_vietnamese_guide_is_in_vietnamese() -> None:
    for section in sections(GUIDES["vi"])[1:]:
        words = re.findall(r"\w+", re.sub(r"`[^`]*`", "", section))
        if len(words) > 20:
            assert sum(not word.isascii() for word in words) > len(words) / 3


@each_guide
def test_every_command_exists(guide: str) -> None:
    asked = list(commands(guide))
    assert len(asked) > 20
    assert not [words for words in asked if not command_exists(*words)]


@each_guide
def test_every_configuration_shown_is_valid(guide: str, tmp_path: Path) -> None:
    blocks = [block for kind, block in BLOCK.findall(guide) if kind == "toml"]
    assert blocks
    for block in blocks:
        file = tmp_path / "gguf-server.toml"
        file.write_text(block, encoding="utf-8")
        assert config.load(file, environ={}).services.keys() == {"qwen3", "gemma4"} or "[tls]" in block


@each_guide
def test_every_setting_exists(guide: str) -> None:
    for code in inline(prose(guide)):
        if re.fullmatch(r"(server|audit|limits|connections|metrics|tls)\.[a-z_]+", code.partition(" = ")[0]):
            assert code.partition(" = ")[0] in SETTINGS, code
        elif assigned := re.fullmatch(r"([a-z_]+) = .*", code):
            assert assigned[1] in LEAVES, code


@each_guide
def test_every_name_is_the_programs(guide: str) -> None:
    for code in inline(prose(guide)):
        for name in NAME.findall(code) if NAME.fullmatch(code) else ():
            assert re.search(rf"\b{name.removesuffix('_total')}\b", SOURCES), name


@each_guide
def test_every_reason_of_a_failure_has_its_line(guide: str) -> None:
    told = re.findall(r"^\| `([a-z_]+)` \| ", guide, re.MULTILINE)
    assert [name for name in told if name in set(FailureReason)] == [str(reason) for reason in FailureReason]


@each_guide
def test_every_refusal_that_may_end_by_itself_has_its_line(guide: str) -> None:
    """Errors of status 429 and 5xx, by their codes; and no code is told that there is not."""
    rows = dict.fromkeys(re.findall(r"^\| (\d{3}) \| (`[a-z_`, ]+`) \|", guide, re.MULTILINE))
    told = {(int(status), code) for status, codes in rows for code in inline(codes)}
    known = {(error.status, error.code) for error in _every_error(errors.GatewayError)}
    assert {(status, code) for status, code in known if status == 429 or status > 500} <= told
    assert not [code for _, code in told if f'"{code}"' not in SOURCES]


def _every_error(of: type[errors.GatewayError]) -> Iterator[type[errors.GatewayError]]:
    for error in of.__subclasses__():
        if not error.__name__.startswith("_"):
            yield error
        yield from _every_error(error)


@each_guide
def test_every_alert_has_its_line(guide: str) -> None:
    rules = OPERATING / "monitoring" / "gguf-server.rules.yml"
    if not rules.exists():
        pytest.skip("there are no alert rules yet")
    alerts = set(re.findall(r"- alert: (\w+)", rules.read_text(encoding="utf-8")))
    assert {code for code in inline(guide) if re.fullmatch(r"Gguf\w+", code)} == alerts


@each_guide
def test_files_of_this_repository_that_are_named_exist(guide: str) -> None:
    for path in re.findall(r"docs/operating/[\w./-]+\w", guide):
        assert (ROOT / path).exists() or path.endswith("/monitoring"), path
    for name in re.findall(r"install -m 644 ([\w.-]+)", guide):
        assert (OPERATING / "systemd" / name).exists(), name
