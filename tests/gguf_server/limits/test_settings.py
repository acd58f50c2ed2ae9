"""The table `[limits]`."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from gguf_server import config, run
from gguf_server.config import ConfigError
from gguf_server.limits.configured import defaults
from gguf_server.limits.policy import NO_LIMITS, KeyLimits, Priority
from gguf_server.reload.source import Source
from gguf_server.settings.limits import LimitsSettings


def read(text: str, folder: Path, **environ: str) -> LimitsSettings:
    path = folder / "c.toml"
    path.write_text(f"[services.demo]\n[limits]\n{text}")
    return config.load(path, environ=environ).limits


def test_defaults_come_from_the_file_and_the_environment(tmp_path: Path) -> None:
    text = 'requests_per_minute = 60\npriority = "low"\nstore = "redis://10.0.0.5:6379/1"'
    settings = read(text, tmp_path, GGUF_SERVER_LIMITS__TOKENS_PER_DAY="1000")
    assert defaults(settings) == KeyLimits(requests_per_minute=60, tokens_per_day=1000, priority=Priority.LOW)
    assert settings.store == "redis://10.0.0.5:6379/1"


def test_nothing_is_limited_by_default() -> None:
    assert not defaults(LimitsSettings()).has_rates
    assert NO_LIMITS.over(defaults(LimitsSettings())) == KeyLimits(priority=Priority.NORMAL)


@pytest.mark.parametrize("store", ["redis", "http://a", "redis://", "unix://", "file:///x", "redis://a:b/c:d"])
def test_a_store_is_memory_or_an_address(tmp_path: Path, store: str) -> None:
    with pytest.raises(ConfigError, match=r"limits\.store: "):
        read(f'store = "{store}"', tmp_path)


@pytest.mark.parametrize("store", ["redis://:s3cret@a", "rediss://user:s3cret@a", "unix:///s?password=s3cret"])
def test_a_password_in_the_address_is_refused_and_not_repeated(tmp_path: Path, store: str) -> None:
    with pytest.raises(ConfigError, match="store_password_env") as refused:
        read(f'store = "{store}"', tmp_path)
    assert "s3cret" not in str(refused.value)


def test_there_is_one_password(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="not both"):
        read('store_password_env = "A"\nstore_password_file = "b"', tmp_path)


def test_a_store_that_cannot_be_used_ends_the_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "gguf_server.limits.redis_store", None)
    monkeypatch.setenv("GGUF_SERVER_API_KEYS", "a-key")
    path = tmp_path / "c.toml"
    path.write_text(f'server.keys_file = "{tmp_path}/keys.json"\nlimits.store = "redis://127.0.0.1"\n[services.demo]\n')
    assert run.serve(config.load(path, environ={}), Source(path)) == 2
    assert "pip install" in capsys.readouterr().err
