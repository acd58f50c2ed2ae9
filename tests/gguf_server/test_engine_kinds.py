"""From a configuration to engines of the kinds that are not this project's own programs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from backends.external import ExternalEngine
from backends.supervised import SupervisedEngine
from gguf_server.config_problems import describe
from gguf_server.engines import build
from gguf_server.settings import ServiceSettings, Settings

SERVICE: dict[str, Any] = {
    "model": "small",
    "service_name": "s",
    "title": "S",
    "paths": ["/s"],
    "max_model_len": 2048,
    "weights": "/nowhere.gguf",
}


def service(*engines: dict[str, Any]) -> ServiceSettings:
    return ServiceSettings.model_validate({**SERVICE, "engines": engines})


def problems(engine: dict[str, Any]) -> list[str]:
    with pytest.raises(ValidationError) as caught:
        Settings.model_validate({"services": {"s": {**SERVICE, "engines": [engine]}}})
    return describe(caught.value)


def test_chain_of_foreign_kinds_is_built_in_its_order(tmp_path: Path) -> None:
    engines = build(
        service(
            {"kind": "llama-server", "binary": "/opt/llama-server", "device": "cuda", "cuda_device": 1},
            {"kind": "openai", "url": "http://gpu.example:8000/v1", "api_key_env": "KEY", "dialect": "vllm"},
        ),
        tmp_path,
    )
    assert [(engine.name, engine.kind, engine.device, engine.cuda_device) for engine in engines] == [
        ("llama-server", "llama-server", "cuda", 1),
        ("openai", "openai", "remote", None),
    ]
    assert isinstance(engines[0], SupervisedEngine)
    assert isinstance(engines[1], ExternalEngine)


def test_llama_server_is_not_started_for_embeddings() -> None:
    with pytest.raises(ValidationError, match="not started for embeddings"):
        ServiceSettings.model_validate({**SERVICE, "task": "embed", "engines": [{"kind": "llama-server"}]})


@pytest.mark.parametrize("url", ["http://127.0.0.1:11434", "https://api.example/v1", "http://[::1]:8080/"])
def test_address_of_a_server_is_taken(url: str) -> None:
    assert service({"kind": "openai", "url": url}).engines


@pytest.mark.parametrize(
    ("more", "told"),
    [
        ({"url": "gpu.example:8000"}, "expected http://HOST:PORT"),
        ({"url": "ftp://gpu.example"}, "expected http://HOST:PORT"),
        ({"url": "http://"}, "expected http://HOST:PORT"),
        ({"url": "http://gpu.example:99999"}, "Port out of range"),
        ({"url": "http://me:hunter2@gpu.example"}, "user and password do not belong here"),
        ({"url": "http://gpu.example/?key=hunter2"}, "without ? and #"),
        ({"url": "http://h", "api_key_env": "A", "api_key_file": "/k"}, "not both"),
        ({"url": "http://h", "api_key_env": "no-name"}, "api_key_env"),
        ({"url": "http://h", "dialect": "ollama"}, "dialect"),
    ],
)
def test_what_is_no_address_is_told_without_its_secrets(more: dict[str, Any], told: str) -> None:
    (line,) = problems({"kind": "openai", **more})
    assert told in line
    assert "hunter2" not in line
