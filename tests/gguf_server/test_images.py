from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from backends.llamacpp_engine import LlamaCppSpec
from backends.openai_schema import ChatCompletionRequest, Message
from backends.vllm.argv import argv, environment, on_port
from backends.vllm.spec import VllmSpec
from gguf_server import config, context, engines, images
from gguf_server.errors import BadRequest
from gguf_server.settings import ServiceSettings
from gguf_server.settings.engines import LlamaCppEngineSettings

SERVICE: dict[str, Any] = {
    "model": "small",
    "service_name": "s",
    "title": "S",
    "paths": ["/s"],
    "max_model_len": 2048,
    "images": True,
    "image_hosts": ["images.example.com"],
    "engines": [{"kind": "llamacpp", "weights": "/own.gguf", "mmproj": "/own-eyes.gguf"}],
}


def service(**fields: Any) -> ServiceSettings:
    return ServiceSettings.model_validate({**SERVICE, **fields})


def showing(url: str) -> list[Message]:
    return [Message(role="user", content=[{"type": "image_url", "image_url": {"url": url}}])]


def spec_of(settings: ServiceSettings) -> LlamaCppSpec:
    engine = settings.engines[0]
    assert isinstance(engine, LlamaCppEngineSettings)
    return engines._llamacpp_spec(engine, settings, Path("run"))


@pytest.mark.parametrize(
    "url", ["data:image/png;base64,AA==", "https://images.example.com/a.png", "http://IMAGES.example.com:8080/a"]
)
def test_an_image_in_the_body_or_from_a_trusted_host_is_passed_on(url: str) -> None:
    images.check(showing(url), service())


@pytest.mark.parametrize(
    "url",
    [
        "http://127.0.0.1/a.png",
        "https://images.example.com.evil.example/a.png",
        "https://images.example.com@evil.example/a.png",
        "https://evil.example\\@images.example.com/a.png",
        "https://evil.example/#images.example.com",
        "file:///etc/passwd",
        "ftp://images.example.com/a.png",
        "//images.example.com/a.png",
        "http://[::1",
        "",
    ],
)
def test_any_other_address_is_refused(url: str) -> None:
    with pytest.raises(BadRequest) as refused:
        images.check(showing(url), service())
    assert refused.value.code == "remote_image_refused"


def test_without_a_list_no_host_is_trusted_and_without_images_nothing_is() -> None:
    with pytest.raises(BadRequest) as refused:
        images.check(showing("https://images.example.com/a.png"), service(image_hosts=[]))
    assert refused.value.code == "remote_image_refused"
    with pytest.raises(BadRequest) as refused:
        images.check(showing("data:image/png;base64,AA=="), service(images=False))
    assert refused.value.code == "images_not_supported"


def test_an_engines_image_encoder_goes_with_its_own_weights_only() -> None:
    assert spec_of(service()).mmproj == "/own-eyes.gguf"
    assert spec_of(service(weights="/other.gguf")).mmproj is None
    assert spec_of(service(weights="/other.gguf", mmproj="/other-eyes.gguf")).mmproj == "/other-eyes.gguf"
    assert spec_of(service()).image_hosts == ("images.example.com",)


@pytest.mark.parametrize("preset", ["gemma4", "gemma4-qat"])
def test_fallbacks_of_models_that_see_have_their_image_encoder(preset: str) -> None:
    settings = config.load(presets=[preset], environ={}).services[preset]
    fallbacks = [engine for engine in settings.engines if isinstance(engine, LlamaCppEngineSettings)]
    assert len(fallbacks) == 2
    assert all(engine.mmproj and "mmproj" in engine.mmproj for engine in fallbacks)


def test_vllm_is_told_of_trusted_hosts_and_follows_no_redirect_from_them() -> None:
    spec = VllmSpec(
        model="m", names=("m",), max_model_len=512, max_num_seqs=1, images_per_prompt=1, image_hosts=("a.example",)
    )
    line = argv(spec, python="py", model="m", listen=on_port(1))
    place = line.index("--allowed-media-domains")
    assert line[place + 1] == "a.example"
    assert line[place + 2].startswith("--")
    assert environment(spec, "key", {"VLLM_MEDIA_URL_ALLOW_REDIRECTS": "1"})["VLLM_MEDIA_URL_ALLOW_REDIRECTS"] == "0"


@pytest.mark.parametrize("host", ["http://a.example", "a.example/x", "A.example", "a.example:80", ""])
def test_a_host_is_a_name_and_nothing_else(host: str) -> None:
    with pytest.raises(ValueError, match="image_hosts"):
        service(image_hosts=[host])


def test_each_image_of_a_message_counts_where_the_context_may_be_short() -> None:
    def bound(n_images: int) -> int:
        parts = [{"type": "image_url", "image_url": {"url": "data:image/png;base64,AA=="}}] * n_images
        return context.upper_bound(ChatCompletionRequest(messages=[Message(role="user", content=parts)]))

    assert bound(3) - bound(2) == bound(2) - bound(1) > 1000
