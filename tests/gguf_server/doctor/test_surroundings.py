"""Ports, the hub's cache, keys and the configuration: what they are, and what is thought of them."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from gguf_server import config, keys
from gguf_server.doctor.finding import Verdict
from gguf_server.doctor.surroundings_checks import check_cache, check_config, check_keys, check_port
from gguf_server.doctor.surroundings_facts import HubCache, Keys, Port, look_at_cache, look_at_keys, look_at_ports
from gguf_server.settings import Settings

GIB = 1 << 30


def settings(host: str = "127.0.0.1", port: int = 0) -> Settings:
    return config.load(host=host, port=port, environ={})


@pytest.mark.parametrize(
    ("port", "verdict", "says", "remedy"),
    [
        (Port("127.0.0.1", 8040, "server.port"), Verdict.OK, "127.0.0.1:8040 is free", None),
        (Port("::", 80, "server.port", "taken"), Verdict.BROKEN, "another program", "ss -ltnp 'sport = :80'"),
        (Port("0.0.0.0", 80, "server.port", "forbidden"), Verdict.BROKEN, "from 1024 up", None),
        (Port("10.9.9.9", 80, "x", "no_such_address"), Verdict.BROKEN, "no address 10.9.9.9", "ip -brief address"),
        (Port("a", 80, "x", "failing", "Name unknown"), Verdict.BROKEN, "a:80: Name unknown", None),
    ],
)
def test_a_port_is_judged(port: Port, verdict: Verdict, says: str, remedy: str | None) -> None:
    finding = check_port(port)
    assert (finding.verdict, finding.remedy, finding.subject) == (verdict, remedy, port.setting)
    assert says in finding.message


@pytest.mark.parametrize(
    ("cache", "n_missing", "verdict", "says", "remedy"),
    [
        (HubCache("/c", True, 99 * GIB, False), 2, Verdict.OK, "/c, 99.0 GiB free", None),
        (HubCache("/c", True, 9 * GIB, False), 0, Verdict.OK, "9.0 GiB free", None),
        (HubCache("/c", True, 9 * GIB, False), 2, Verdict.WARNING, "2 models are to be fetched", "gguf-server list"),
        (HubCache("/c", True, GIB // 2, False), 0, Verdict.WARNING, "little for models", "gguf-server list"),
        (HubCache("/c", True, 99 * GIB, True), 1, Verdict.WARNING, "HF_HUB_OFFLINE", "unset HF_HUB_OFFLINE"),
        (HubCache("/c", True, 99 * GIB, True), 0, Verdict.OK, "99.0 GiB free", None),
        (HubCache("/c", False, 99 * GIB, False), 1, Verdict.WARNING, "nothing can be", "export HF_HUB_CACHE=FOLDER"),
        (HubCache("/c", False, 99 * GIB, False), 0, Verdict.OK, "nothing can be written", None),
    ],
)
def test_the_cache_is_judged_by_what_is_still_to_be_fetched(
    cache: HubCache, n_missing: int, verdict: Verdict, says: str, remedy: str | None
) -> None:
    finding = check_cache(cache, n_missing)
    assert (finding.verdict, finding.remedy) == (verdict, remedy)
    assert says in finding.message


@pytest.mark.parametrize(
    ("held", "verdict", "says", "remedy"),
    [
        (Keys("/k", 2, is_loopback=False), Verdict.OK, "2 in use", None),
        (Keys("/k", 0, is_loopback=True), Verdict.OK, "the first start makes one", None),
        (Keys("/k", 0, is_loopback=False), Verdict.BROKEN, "will not start", "gguf-server keys create NAME"),
        (Keys("/k", 0, True, "/k is damaged"), Verdict.BROKEN, "/k is damaged", "gguf-server keys list"),
    ],
)
def test_keys_are_judged_by_who_can_reach_the_server(
    held: Keys, verdict: Verdict, says: str, remedy: str | None
) -> None:
    finding = check_keys(held)
    assert (finding.verdict, finding.remedy) == (verdict, remedy)
    assert says in finding.message


def test_every_problem_of_a_configuration_is_a_line() -> None:
    findings = list(check_config(None, ["server.prot: unknown key", "no service"]))
    assert [(it.verdict, it.message) for it in findings] == [
        (Verdict.BROKEN, "server.prot: unknown key"),
        (Verdict.BROKEN, "no service"),
    ]
    assert [it.message for it in check_config(settings(port=1), ())] == ["demo on 127.0.0.1:1"]


def test_a_port_that_is_listened_on_is_taken_and_free_afterwards() -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        number = other.getsockname()[1]
        (port,) = look_at_ports(settings(port=number))
        assert (port.number, port.setting, port.state) == (number, "server.port", "taken")
    (port,) = look_at_ports(settings(port=number))
    assert port.state == "free"


def test_an_address_of_another_machine_is_told() -> None:
    (port,) = look_at_ports(settings(host="192.0.2.1", port=8040))
    assert port.state == "no_such_address"


def test_the_ports_of_services_and_their_engines_are_looked_at() -> None:
    of_presets = config.load(presets=["qwen3", "demo"], port=0, environ={})
    assert {(port.host, port.setting, port.number) for port in look_at_ports(of_presets)} == {
        ("127.0.0.1", "services.qwen3.port", 8045),
        ("127.0.0.1", "services.qwen3.engine_port", 8093),
    }


def test_a_cache_that_is_not_there_yet_is_judged_by_the_folder_it_would_be_in(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "not" / "yet"))
    cache = look_at_cache()
    assert cache.folder == str(tmp_path / "not" / "yet")
    assert cache.is_writable
    assert cache.n_free_bytes > 0
    assert not (tmp_path / "not").exists()


def test_keys_of_the_file_and_of_the_environment_count(tmp_path: Path) -> None:
    path = tmp_path / "gguf-server" / "keys.json"
    environ = {"XDG_STATE_HOME": str(tmp_path)}
    assert look_at_keys(settings(), environ) == Keys(str(path), 0, is_loopback=True)
    keys.create(path, "one")
    keys.create(path, "two")
    keys.revoke(path, "two")
    assert look_at_keys(settings("0.0.0.0"), {**environ, config.KEYS_VARIABLE: "a, b"}).n_active == 3
    path.write_text("{")
    damaged = look_at_keys(settings(), environ)
    assert str(path) in (damaged.failure or "")
