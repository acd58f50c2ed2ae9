"""The way from file, presets, environment and command line to settings, and what is said when it fails."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gguf_server import config
from gguf_server.config import ConfigError, deep_merge, is_loopback
from gguf_server.settings import Settings
from gguf_server.settings.engines import LlamaCppEngineSettings

TREES = st.recursive(
    st.dictionaries(st.sampled_from("abc"), st.integers() | st.lists(st.integers()), max_size=3),
    lambda below: st.dictionaries(st.sampled_from("abc"), st.integers() | below, max_size=3),
    max_leaves=8,
)

VARIANTS = {"gemma4-qat": "gemma4", "qwen3-awq": "qwen3"}

TINY = """
[services.tiny]
model = "tiny"
service_name = "tiny_service"
title = "Tiny"
paths = ["/tiny"]
max_model_len = 512
engines = [{ kind = "llamacpp" }]
"""


@pytest.fixture(autouse=True)
def _in_an_empty_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def load(text: str = "", env: Mapping[str, str] | None = None, *presets: str) -> Settings:
    path = Path("given.toml")
    path.write_text(text, encoding="utf-8")
    return config.load(path, presets, environ=env or {})


def problems(text: str = "", env: Mapping[str, str] | None = None, *presets: str) -> tuple[str, ...]:
    with pytest.raises(ConfigError) as raised:
        load(text, env, *presets)
    return raised.value.problems


def test_without_a_file_the_demo_preset_is_the_one_service() -> None:
    settings = config.load(environ={})
    assert list(settings.services) == ["demo"]
    assert (settings.server.host, settings.server.port) == ("127.0.0.1", 8040)


@pytest.mark.parametrize("name", config.preset_names())
def test_every_preset_is_a_service_without_a_file(name: str) -> None:
    settings = config.load(presets=[name], environ={})
    assert list(settings.services) == [name]
    assert settings.services[name].preset == name


def test_all_presets_stand_beside_each_other() -> None:
    """Those that are a variant of another take its place."""
    presets = [name for name in config.preset_names() if name not in VARIANTS]
    assert set(config.load(presets=presets, environ={}).services) == {
        "demo",
        "gemma4",
        "qwen2.5",
        "qwen3",
    }
    assert set(config.preset_names()) == {*presets, *VARIANTS}


@pytest.mark.parametrize(("variant", "name"), VARIANTS.items())
def test_a_variant_is_the_same_service_with_another_model_file(variant: str, name: str) -> None:
    settings = config.load(presets=[variant], environ={}).services[variant]
    original = config.load(presets=[name], environ={}).services[name]
    replaced = {"preset", "weights", "engines"}
    assert settings.model_dump(exclude=replaced) == original.model_dump(exclude=replaced)
    assert [engine.kind for engine in settings.engines] == [engine.kind for engine in original.engines]
    with pytest.raises(ConfigError, match=f"services '{name}' and '{variant}' both want port {original.port}"):
        config.load(presets=[name, variant], environ={})


def test_the_explicit_file_goes_before_the_variable_and_that_before_the_working_directory() -> None:
    for name, port in (("gguf-server.toml", 1), ("variable.toml", 2), ("explicit.toml", 3)):
        Path(name).write_text(f"[server]\nport = {port}\n[services.demo]\n")
    environ = {"GGUF_SERVER_CONFIG": "variable.toml"}
    assert config.load(environ={}).server.port == 1
    assert config.load(environ=environ).server.port == 2
    assert config.load(Path("explicit.toml"), environ=environ).server.port == 3


def test_presets_leave_the_implicit_files_unread() -> None:
    Path("gguf-server.toml").write_text("not TOML")
    settings = config.load(presets=["qwen3"], environ={"GGUF_SERVER_CONFIG": "missing.toml"})
    assert list(settings.services) == ["qwen3"]


def test_presets_add_to_an_explicit_file_and_leave_what_it_says() -> None:
    settings = load("[services.qwen3]\nport = 9045\n" + TINY, {}, "qwen3", "gemma4")
    assert set(settings.services) == {"qwen3", "tiny", "gemma4"}
    assert settings.services["qwen3"].port == 9045


def test_a_service_inherits_from_the_preset_of_its_own_name() -> None:
    service = load("[services.qwen3.sampling]\ntop_k = 20\n").services["qwen3"]
    assert service.model == "qwen3-14b"
    assert (service.sampling.temperature, service.sampling.top_k) == (0.7, 20)


def test_a_service_inherits_from_the_preset_it_names() -> None:
    settings = load('[services.small]\npreset = "demo"\nmodel = "small"\n')
    assert settings.services["small"].model == "small"
    assert settings.services["small"].service_name == "demo_service"


def test_the_chain_of_engines_replaces_the_one_of_the_preset() -> None:
    service = load('[[services.qwen3.engines]]\nkind = "llamacpp"\ndevice = "cpu"\n').services["qwen3"]
    assert service.engines == (LlamaCppEngineSettings(kind="llamacpp", device="cpu"),)


def test_the_environment_goes_before_the_file_and_the_command_line_before_both() -> None:
    Path("c.toml").write_text('[server]\nhost = "10.0.0.1"\nport = 1\nlog_level = "debug"\n[services.demo]\n')
    environ = {"GGUF_SERVER_SERVER__PORT": "9000", "GGUF_SERVER_SERVER__HOST": "10.0.0.2"}
    server = config.load(Path("c.toml"), host="10.0.0.3", environ=environ).server
    assert (server.host, server.port, server.log_level) == ("10.0.0.3", 9000, "debug")
    assert config.load(Path("c.toml"), port=7, environ=environ).server.port == 7


@pytest.mark.parametrize("spelling", ["QWEN2.5", "qwen2.5", "QWEN2_5", "Qwen2_5"])
def test_a_variable_finds_its_service_in_any_case(spelling: str) -> None:
    settings = load('[services."qwen2.5"]\n', {f"GGUF_SERVER_SERVICES__{spelling}__WEIGHTS": "/m/x.gguf"})
    assert settings.services["qwen2.5"].weights == "/m/x.gguf"


def test_a_variable_finds_a_service_that_is_spelt_with_capitals() -> None:
    settings = load(TINY.replace("services.tiny", "services.My-Tiny"), {"GGUF_SERVER_SERVICES__MY_TINY__PORT": "9"})
    assert settings.services["My-Tiny"].port == 9


def test_variables_reach_tables_within_a_service_and_may_choose_its_preset() -> None:
    environ = {
        "GGUF_SERVER_SERVICES__X__PRESET": "qwen3",
        "GGUF_SERVER_SERVICES__X__SAMPLING__TOP_P": "0.5",
        "GGUF_SERVER_SERVICES__X__PATHS": '["", "/x"]',
        "GGUF_SERVER_SERVICES__X__IMAGES": "true",
    }
    service = load("[services.x]\n", environ).services["x"]
    assert (service.model, service.paths, service.images) == ("qwen3-14b", ("", "/x"), True)
    assert (service.sampling.top_p, service.sampling.temperature) == (0.5, 0.7)


def test_an_empty_variable_counts_as_not_set() -> None:
    assert load(TINY, {"GGUF_SERVER_SERVER__PORT": ""}).server.port == 8040


def test_variables_of_other_programs_and_the_reserved_ones_are_left_alone() -> None:
    load(TINY, {"GGUF_SERVER_API_KEYS": "a,b", "GGUF_SERVER_CONFIG": "x", "GGUF_SERVERS": "1", "PATH": "/bin"})


@pytest.mark.parametrize(
    ("variable", "meant"),
    [
        ("GGUF_SERVER_SERVER__PROT", "GGUF_SERVER_SERVER__PORT"),
        ("GGUF_SERVER_PORT", "GGUF_SERVER_SERVER__PORT"),
        ("GGUF_SERVER_API_KEY", "GGUF_SERVER_API_KEYS"),
        ("GGUF_SERVER_SERVICES__TYNI__WEIGHTS", "GGUF_SERVER_SERVICES__TINY__WEIGHTS"),
        ("GGUF_SERVER_SERVICES__TINY__SAMPLING__TOPP", "GGUF_SERVER_SERVICES__TINY__SAMPLING__TOP_P"),
    ],
)
def test_a_variable_that_leads_to_no_setting_is_refused_with_the_nearest(variable: str, meant: str) -> None:
    assert problems(TINY, {variable: "s3cret"}) == (f"{variable}: no such setting; did you mean {meant}?",)


def test_the_value_of_a_variable_is_in_no_message() -> None:
    environ = {
        "GGUF_SERVER_SERVER__PORT": "s3cret",
        "GGUF_SERVER_SERVER__LOG_LEVEL": "s3cret",
        "GGUF_SERVER_SERVICES__TINY__PATHS": "s3cret",
        "GGUF_SERVER_SERVICES__TINY__ALIASES": '{"s3cret": 1}',
        "GGUF_SERVER_NONSENSE": "s3cret",
    }
    found = problems(TINY, environ)
    assert len(found) == 5
    assert "GGUF_SERVER_SERVICES__TINY__PATHS: expected a JSON list" in found
    assert "s3cret" not in "".join(found)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("[servr]\n" + TINY, "servr: unknown key; did you mean server?"),
        ("[server]\nprot = 1\n" + TINY, "server.prot: unknown key; did you mean port?"),
        (
            "[services.qwen3]\nmax_concurent = 1\n",
            "services.qwen3.max_concurent: unknown key; did you mean max_concurrent?",
        ),
        (
            "[services.qwen3.sampling]\ntemprature = 1\n",
            "services.qwen3.sampling.temprature: unknown key; did you mean temperature?",
        ),
        (
            '[[services.qwen3.engines]]\nkind = "llamacpp"\nnbatch = 1\n',
            "services.qwen3.engines[0].nbatch: unknown key; did you mean n_batch?",
        ),
        (
            '[[services.qwen3.engines]]\nkind = "vllm"\nn_gpu_layers = 1\n',
            "services.qwen3.engines[0].n_gpu_layers: unknown key",
        ),
        (
            '[[services.qwen3.engines]]\nkind = "lamacpp"\n',
            "services.qwen3.engines[0].kind: unknown kind 'lamacpp'; did you mean llamacpp?",
        ),
        ("[[services.qwen3.engines]]\nn_batch = 64\n", "services.qwen3.engines[0].kind: Field required"),
        ('[services.x]\npreset = "qwn3"\n', "services.x.preset: unknown preset 'qwn3'; did you mean qwen3?"),
        ('[services."qwen2.5"]\nprot = 1\n', 'services."qwen2.5".prot: unknown key; did you mean port?'),
        (
            "[services.qwen2.5]\nport = 1\n",
            'services.qwen2.5: a name with a dot goes in quotes: [services."qwen2.5"]',
        ),
        ("services = 3\n", "services: Input should be a table"),
        ("[services]\nqwen3 = 3\n", "services.qwen3: Input should be a table"),
        ("server = 3\n" + TINY, "server: Input should be a table"),
        ("[services.qwen3]\nengines = []\n", "services.qwen3.engines: Tuple should have at least 1 item"),
        ('[services.a]\npreset = "demo"\n[services.b]\npreset = "demo"\n', "services 'a' and 'b' both want path /"),
        ("[server]\nport = 1\n", "given.toml: no service; add a [services.NAME] table, or use --preset"),
    ],
)
def test_a_mistake_in_the_file_is_one_line_that_says_where(text: str, expected: str) -> None:
    found = problems(text)
    assert len(found) == 1
    assert found[0].startswith(expected)
    assert "did you mean" in expected or "did you mean" not in found[0]


def test_a_bad_value_is_named_by_its_key() -> None:
    assert problems('[services.qwen3]\nport = "x"\n') == (
        "services.qwen3.port: Input should be a valid integer, unable to parse string as an integer",
    )


def test_all_problems_are_told_at_once() -> None:
    text = '[server]\nprot = 1\n[services.qwen3]\nport = -1\n[services.x]\npreset = "qwn3"\n'
    assert problems(text, {"GGUF_SERVER_SERVER__HOTS": "x"}, "gema4") == (
        "unknown preset 'gema4'; did you mean gemma4?",
        "GGUF_SERVER_SERVER__HOTS: no such setting; did you mean GGUF_SERVER_SERVER__HOST?",
        "services.x.preset: unknown preset 'qwn3'; did you mean qwen3?",
        "server.prot: unknown key; did you mean port?",
        "services.qwen3.port: Input should be greater than or equal to 0",
    )


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"[server]\nport = \n", "bad.toml: Invalid value (at line 2"),
        (b"[server]\n\nhost", "(at line 3"),
        (b'a = "\xff"', "bad.toml: not UTF-8"),
    ],
)
def test_a_file_that_is_not_toml_is_named_with_the_line(content: bytes, expected: str) -> None:
    Path("bad.toml").write_bytes(content)
    with pytest.raises(ConfigError) as raised:
        config.load(Path("bad.toml"), environ={})
    (problem,) = raised.value.problems
    assert problem.startswith("bad.toml: ")
    assert expected in problem


@pytest.mark.parametrize("environ", [{}, {"GGUF_SERVER_CONFIG": "nowhere.toml"}])
def test_a_file_that_was_asked_for_must_be_there(environ: dict[str, str]) -> None:
    explicit = None if environ else Path("nowhere.toml")
    with pytest.raises(ConfigError, match=r"^nowhere\.toml: No such file or directory$"):
        config.load(explicit, environ=environ)


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST", "127.0.0.1", "127.8.9.10", "::1"])
def test_loopback_hosts_are_told(host: str) -> None:
    assert is_loopback(host)


@pytest.mark.parametrize("host", ["", "0.0.0.0", "::", "10.0.0.1", "128.0.0.1", "localhost.example.org", "[::1"])
def test_every_other_host_is_taken_as_reachable_from_outside(host: str) -> None:
    assert not is_loopback(host)


@given(TREES, TREES)
def test_a_merge_says_what_the_upper_table_says_and_keeps_the_rest(base: dict[str, Any], over: dict[str, Any]) -> None:
    before = copy.deepcopy((base, over))
    merged = deep_merge(base, over)
    assert (base, over) == before
    assert merged.keys() == base.keys() | over.keys()
    for key, value in merged.items():
        if key not in over:
            assert value == base[key]
        elif isinstance(over[key], dict) and isinstance(base.get(key), dict):
            assert value == deep_merge(base[key], over[key])
        else:
            assert value == over[key]


@given(TREES, TREES)
def test_merging_the_same_thing_again_changes_nothing(base: dict[str, Any], over: dict[str, Any]) -> None:
    merged = deep_merge(base, over)
    assert deep_merge(merged, over) == merged
    assert deep_merge(base, {}) == base
    assert deep_merge({}, over) == over
