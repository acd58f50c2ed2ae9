"""An image by way of the gateway: vLLM is not there, so the model that sees is llama.cpp's."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import models
from tests.backends.llamacpp.pictures import asks, png
from tests.e2e.client import CHAT, Client, error_of
from tests.e2e.program import Program, serving

CONFIG = """
[services.gemma4]
port = 0
engine_port = 0
max_model_len = 1024

[[services.gemma4.engines]]
kind = "vllm"
python = "/nowhere/python"
model = "m"
images_per_prompt = 1

[[services.gemma4.engines]]
kind = "llamacpp"
device = "cpu"
n_threads = 1
weights = "{text}"
mmproj = "{mmproj}"
images_per_prompt = 2
"""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Program]:
    folder = tmp_path_factory.mktemp("images")
    files = {name: folder / f"{name}.gguf" for name in ("gemma4", "gemma4-mmproj")}
    text, mmproj = (models.write(name, path) for name, path in files.items())
    config = Path(folder / "config.toml")
    config.write_text(CONFIG.format(text=text, mmproj=mmproj))
    with serving(folder, "--config", str(config)) as server:
        server.becomes_ready("/gemma4")
        yield server


def test_the_fallback_sees_what_is_in_a_message(server: Program) -> None:
    client = Client(server.url("/gemma4"))
    said = []
    for seed in (1, 2, 1):
        body = {"messages": [asks("what is ", png(seed), " this")], "temperature": 0, "max_tokens": 8}
        response = client.post(CHAT, body)
        assert response.status_code == 200, response.text
        assert response.headers["x-engine"] == "llama.cpp"
        assert response.json()["usage"]["prompt_tokens"] > 70
        said.append(response.json()["choices"][0]["message"]["content"])
    assert said[0] == said[2] != said[1]


def test_what_the_engine_refuses_is_told_by_the_gateway(server: Program) -> None:
    client = Client(server.url("/gemma4"))
    codes = {
        "too_many_images": [png(1)] * 3,
        "unsupported_image": ["data:image/png;base64,AAAA"],
        "remote_image_refused": ["http://127.0.0.1/a.png"],
    }
    for code, parts in codes.items():
        error = error_of(client.post(CHAT, {"messages": [asks(*parts)], "max_tokens": 2}), 400)
        assert (error["code"], error["param"]) == (code, "messages")
