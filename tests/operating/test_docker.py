"""The Dockerfiles and the compose file: accepted by the programs that read them, and true to this one."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest

from gguf_server import config
from gguf_server.settings import Settings
from gguf_server.settings.engines import VllmEngineSettings
from tests.operating.program import OPERATING, command_exists, run

DOCKER = OPERATING / "docker"
ROOT = OPERATING.parents[1]
DOCKERFILES = sorted(DOCKER.glob("Dockerfile.*"))
COMPOSE = DOCKER / "compose.yaml"
STOPPING_S = 30.0  # last words, listeners, and engines that have to be killed


def tool(name: str) -> str:
    """Its path, beside this interpreter or on PATH."""
    found = shutil.which(name, path=str(Path(sys.executable).parent)) or shutil.which(name)
    if found is None:
        pytest.skip(f"{name} is not installed: what it would say of these files is not known")
    return found


def instructions(path: Path) -> list[tuple[str, str]]:
    """(instruction, the rest of it), continued lines joined."""
    text = re.sub(r"^\s*#.*\n", "", path.read_text(encoding="utf-8"), flags=re.MULTILINE).replace("\\\n", " ")
    return [(name, rest) for name, _, rest in (line.partition(" ") for line in text.splitlines() if line.strip())]


def of(path: Path, name: str) -> list[str]:
    return [rest for instruction, rest in instructions(path) if instruction == name]


@pytest.fixture(scope="module")
def composed() -> dict[str, Any]:
    """As Docker Compose understands it, all profiles."""
    line = (tool("docker-compose"), "-f", str(COMPOSE), "--profile", "*", "config", "--format", "json")
    said = subprocess.run(line, capture_output=True, text=True, timeout=60)
    assert said.returncode == 0, said.stderr
    read: dict[str, Any] = json.loads(said.stdout)
    return read


@pytest.fixture(scope="module")
def settings() -> Settings:
    return config.load(DOCKER / "gguf-server.toml", environ={})


@pytest.mark.parametrize("path", DOCKERFILES, ids=lambda path: path.suffix)
def test_hadolint_has_nothing_to_say(path: Path) -> None:
    said = subprocess.run((tool("hadolint"), str(path)), capture_output=True, text=True, timeout=60)
    assert said.returncode == 0, said.stdout


@pytest.mark.parametrize("path", DOCKERFILES, ids=lambda path: path.suffix)
def test_image_runs_the_program_as_nobody_in_particular(path: Path) -> None:
    entry, command = (json.loads(of(path, name)[-1]) for name in ("ENTRYPOINT", "CMD"))
    assert entry == ["tini", "--", "gguf-server"]
    assert command_exists(*command)
    assert of(path, "USER") == ["10001"]
    assert "/health" in of(path, "HEALTHCHECK")[0]


@pytest.mark.parametrize("path", DOCKERFILES, ids=lambda path: path.suffix)
def test_every_setting_in_an_image_is_one(path: Path) -> None:
    named = re.findall(r"(GGUF_SERVER_\w+)=(\S+)", path.read_text(encoding="utf-8"))
    status, said = run("config", "check", "--preset", "demo", environ=dict(named) | {"GGUF_SERVER_API_KEYS": "k"})
    assert status == 0, said


@pytest.mark.parametrize("path", DOCKERFILES, ids=lambda path: path.suffix)
def test_images_install_what_pyproject_asks_for(path: Path) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    (wanted,) = (one for one in project["dependencies"] if one.startswith("llama-cpp-python"))
    assert f'LLAMA_CPP_PYTHON="{wanted.removeprefix("llama-cpp-python")}"' in of(path, "ARG")
    text = path.read_text(encoding="utf-8")
    (extras,) = re.findall(r"/src\[(.*)\]", text)
    assert set(extras.split(",")) <= project["optional-dependencies"].keys()
    assert project["optional-dependencies"]["demo"][0] in text


@pytest.mark.parametrize("path", [*DOCKERFILES, COMPOSE], ids=lambda path: path.name)
def test_nothing_names_a_registry_or_holds_a_secret(path: Path) -> None:
    images = re.findall(r"^(?:FROM|\s*image:)\s+(\S+)", path.read_text(encoding="utf-8"), re.MULTILINE)
    assert images
    assert not [image for image in images if "." in image.split("/")[0].split(":")[0]]
    assert not re.search(r"gsk-|hf_[A-Za-z]{8}", path.read_text(encoding="utf-8"))


def test_what_is_copied_is_in_the_context() -> None:
    """`.dockerignore` leaves out everything but what the package is made of."""
    lines = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    let_in = {line.removeprefix("!") for line in lines if line.startswith("!")}
    assert "*" in lines
    packages = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["setuptools"]
    for pattern in packages["packages"]["find"]["include"]:
        assert pattern.rstrip("*") in let_in
    assert {"pyproject.toml", "README.md", "LICENSE"} <= let_in
    assert all((ROOT / name).exists() for name in let_in)


def test_compose_starts_commands_that_exist(composed: dict[str, Any]) -> None:
    assert set(composed["services"]) >= {"gateway", "pull"}
    assert command_exists(*composed["services"]["pull"]["command"])
    for line in re.findall(r"run --rm gateway (.*?)(?:  #.*)?$", COMPOSE.read_text(encoding="utf-8"), re.MULTILINE):
        assert command_exists(*line.split())


def test_compose_publishes_the_ports_that_the_configuration_opens(composed: dict[str, Any], settings: Settings) -> None:
    ports = {int(port["target"]) for port in composed["services"]["gateway"]["ports"]}
    assert ports == {settings.server.port, *(service.port for service in settings.services.values())}
    assert all(port["host_ip"] == "127.0.0.1" for port in composed["services"]["gateway"]["ports"])
    exposed = of(DOCKER / "Dockerfile.cuda", "EXPOSE")[0].split()
    assert {int(port) for port in exposed} == ports


def test_compose_gives_each_service_a_card_and_time_to_end(composed: dict[str, Any], settings: Settings) -> None:
    gateway = composed["services"]["gateway"]
    (cards,) = gateway["deploy"]["resources"]["reservations"]["devices"]
    used = {
        engine.cuda_device
        for service in settings.services.values()
        for engine in service.engines
        if isinstance(engine, VllmEngineSettings)
    }
    assert used == set(range(len(cards["device_ids"])))
    minutes, seconds = re.fullmatch(r"(\d+)m(\d+)s", gateway["stop_grace_period"]).groups()  # type: ignore[union-attr]
    assert 60 * int(minutes) + int(seconds) >= settings.server.drain_s + STOPPING_S


def test_containers_may_write_to_their_volumes_alone(composed: dict[str, Any]) -> None:
    for name in ("gateway", "pull"):
        service = composed["services"][name]
        assert service["read_only"]
        assert service["cap_drop"] == ["ALL"]
        writable = {mount["target"] for mount in service["volumes"] if not mount.get("read_only")}
        assert writable == {"/var/lib/gguf-server", "/var/cache/gguf-server"}


def test_the_configuration_of_the_containers_is_the_presets_on_two_cards(settings: Settings) -> None:
    presets = config.load(presets=["qwen3", "gemma4"], environ={})
    for name, service in settings.services.items():
        meant = presets.services[name]
        assert (service.paths, service.port, service.max_model_len) == (meant.paths, meant.port, meant.max_model_len)
        engines = [engine.model_copy(update={"cuda_device": None}) for engine in service.engines]
        if isinstance(engines[0], VllmEngineSettings):
            engines[0] = engines[0].model_copy(update={"python": None})
        assert tuple(engines) == meant.engines
