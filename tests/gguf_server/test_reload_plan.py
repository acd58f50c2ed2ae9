"""From one configuration to another, as a list of things to do."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gguf_server.reload.plan import Add, Change, ChangeTable, Plan, Remove, Replace, plan
from gguf_server.settings import ServiceSettings, Settings

LLAMA: dict[str, Any] = {"kind": "llamacpp", "device": "cuda", "cuda_device": 0}
VLLM: dict[str, Any] = {"kind": "vllm", "cuda_device": 0}
REMOTE: dict[str, Any] = {"kind": "openai", "url": "http://127.0.0.1:1"}


def a_service(*engines: dict[str, Any], **more: Any) -> dict[str, Any]:
    fixed = {"model": "m", "service_name": "s", "title": "S", "max_model_len": 4096, "weights": "/w.gguf"}
    return {**fixed, "paths": [], "engines": engines or [LLAMA], **more}


def settings(server: dict[str, Any] | None = None, **services: dict[str, Any]) -> Settings:
    return Settings.model_validate({"server": server or {}, "services": services})


def actions(old: Settings, new: Settings, **more: Any) -> tuple[Any, ...]:
    return plan(old, new, has_cards=True, **more).actions


def kinds(old: Settings, new: Settings, **more: Any) -> list[tuple[str, str, tuple[str, ...] | None]]:
    """Kind, service, and what it waits for."""
    after = {a.name: tuple(sorted(a.after)) for a in actions(old, new, **more) if not isinstance(a, Remove)}
    return [(type(a).__name__, a.name, after.get(a.name)) for a in actions(old, new, **more)]


def test_same_settings_are_nothing_to_do() -> None:
    same = settings(a=a_service(), b=a_service(REMOTE))
    assert plan(same, same, has_cards=True) == Plan(same)


@pytest.mark.parametrize(
    "changed",
    [
        {"aliases": ["other"]},
        {"paths": ["/x"]},
        {"port": 9001},
        {"title": "T"},
        {"max_queue": 1},
        {"timeout_s": 1.0},
        {"default_max_tokens": 5},
        {"sampling": {"temperature": 0.1}},
        {"failover": {"stall_s": 3.0}},
        {"standby": "warm"},
        {"plan": "off"},
        {"enable_thinking": True},
        {"max_concurrent": 2},
    ],
)
@pytest.mark.parametrize("engine", [LLAMA, VLLM, REMOTE])
def test_what_the_gateway_alone_uses_leaves_the_engines(changed: dict[str, Any], engine: dict[str, Any]) -> None:
    new = settings(a=a_service(engine, **changed))
    (found,) = actions(settings(a=a_service(engine)), new)
    assert found == Change("a", new.services["a"], tuple(changed))


@pytest.mark.parametrize(
    "changed",
    [{"weights": "/other.gguf"}, {"max_model_len": 8192}, {"model": "n"}, {"max_concurrent": 8}, {"task": "embed"}],
)
def test_what_an_engine_is_asked_to_be_needs_another(changed: dict[str, Any]) -> None:
    (found,) = actions(settings(a=a_service()), settings(a=a_service(**changed)))
    assert isinstance(found, Replace)
    assert found.what == tuple(changed)


def test_more_requests_at_once_need_no_other_engine_where_it_was_made_for_them() -> None:
    built = ServiceSettings.model_validate(a_service(max_concurrent=8))
    old, new = settings(a=a_service(max_concurrent=2)), settings(a=a_service(max_concurrent=8))
    assert isinstance(actions(old, new)[0], Replace)
    assert isinstance(actions(old, new, built={"a": built})[0], Change)
    of = {**LLAMA, "n_parallel": 8}
    (found,) = actions(settings(a=a_service(of)), settings(a=a_service(of, max_concurrent=8)))
    assert isinstance(found, Change)


def test_other_engines_come_beside_where_nothing_is_in_the_way() -> None:
    other = {**LLAMA, "cuda_device": 1}
    assert kinds(settings(a=a_service()), settings(a=a_service(other))) == [("Replace", "a", ())]
    on_cpu = {"kind": "llamacpp", "device": "cpu"}
    assert kinds(settings(a=a_service(on_cpu)), settings(a=a_service(on_cpu, model="n"))) == [("Replace", "a", ())]


def test_on_the_same_card_the_old_ones_go_first() -> None:
    old, new = settings(a=a_service()), settings(a=a_service(model="n"))
    assert kinds(old, new) == [("Replace", "a", ("a",))]
    assert plan(old, new, has_cards=False).actions[0] == Replace("a", new.services["a"], ("model",), ())
    anywhere = {"kind": "vllm"}
    assert kinds(old, settings(a=a_service(anywhere))) == [("Replace", "a", ("a",))]


def test_on_the_same_port_the_old_ones_go_first() -> None:
    of, other = VLLM, {**VLLM, "cuda_device": 1}
    old, new = settings(a=a_service(of, engine_port=8093)), settings(a=a_service(other, engine_port=8093))
    assert kinds(old, new) == [("Replace", "a", ("a",))]
    assert kinds(old, settings(a=a_service(other, engine_port=8094))) == [("Replace", "a", ())]


def test_a_service_comes_when_the_one_whose_card_it_needs_is_gone() -> None:
    old, new = settings(a=a_service()), settings(b=a_service(), c=a_service(REMOTE))
    assert kinds(old, new) == [("Remove", "a", None), ("Add", "b", ("a",)), ("Add", "c", ())]


def test_a_service_waits_for_engines_that_an_earlier_plan_ends() -> None:
    gone = ServiceSettings.model_validate(a_service())
    assert kinds(settings(), settings(b=a_service()), leaving=[("a", gone)]) == [("Add", "b", ("a",))]
    assert kinds(settings(), settings(b=a_service(REMOTE)), leaving=[("a", gone)]) == [("Add", "b", ())]


def test_services_that_exchange_their_cards_both_make_room() -> None:
    zero, one = a_service(LLAMA), a_service({**LLAMA, "cuda_device": 1})
    found = kinds(settings(a=zero, b=one), settings(a=one, b=zero))
    assert found == [("Replace", "a", ("a", "b")), ("Replace", "b", ("a", "b"))]


def test_a_listener_cannot_move_and_the_rest_of_the_server_can() -> None:
    old = settings(a=a_service())
    new = settings({"host": "::1", "port": 1234, "drain_s": 1.0, "max_body_bytes": 2048}, a=a_service())
    found = plan(old, new)
    assert found.needs_restart == ("server.host", "server.port")
    assert found.settings.server.host == "127.0.0.1"
    assert found.actions == (ChangeTable("server", ("max_body_bytes", "drain_s")),)
    assert plan(found.settings, new).actions == ()


def test_other_tables_are_named_as_needing_a_restart_and_stay() -> None:
    old = settings(a=a_service())
    new = Settings.model_validate({"metrics": {"port": 9}, "services": {"a": a_service()}})
    found = plan(old, new)
    assert found.needs_restart == ("metrics.port",)
    assert found.settings == old


def test_limits_change_at_once_and_the_place_where_they_are_counted_does_not() -> None:
    limits = {"requests_per_minute": 3, "store": "redis://127.0.0.1:1/0"}
    found = plan(Settings(), Settings.model_validate({"limits": limits}))
    assert found.actions == (ChangeTable("limits", ("requests_per_minute",)),)
    assert found.needs_restart == ("limits.store",)
    assert found.settings.limits.store == "memory"


SERVICES = st.dictionaries(
    st.sampled_from("abc"),
    st.builds(
        a_service,
        st.sampled_from([LLAMA, {**LLAMA, "cuda_device": 1}, VLLM, REMOTE]),
        max_queue=st.integers(0, 2),
        model=st.sampled_from("mn"),
    ),
)


@given(SERVICES, SERVICES)
def test_what_is_done_leads_where_it_should_and_nobody_waits_in_a_circle(
    old: dict[str, dict[str, Any]], new: dict[str, dict[str, Any]]
) -> None:
    before, after = settings(**old), settings(**new)
    services = dict(before.services)
    replaces = {}
    for action in actions(before, after):
        match action:
            case Remove(name):
                del services[name]
            case Add(name, of) | Change(name, of) | Replace(name, of):
                services[name] = of
            case _:
                pytest.fail(f"nothing of the server has changed: {action}")
        if isinstance(action, Replace):
            replaces[action.name] = action
    assert services == after.services
    for name, replace in replaces.items():
        if replace.is_beside:  # its old engines stay until the new ones are up: it may wait for no other such
            assert not set(replace.after) & replaces.keys(), name
