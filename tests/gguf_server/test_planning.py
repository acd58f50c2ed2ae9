"""What follows from a plan, with figures that a test makes up."""

from __future__ import annotations

import pytest

from backends.base import FailureReason
from gguf_server.planning import (
    GIB,
    EnginePlan,
    ExpectedSpeed,
    Held,
    MemoryNeed,
    Room,
    is_off_the_card,
    is_slow,
    may_try,
    shortage,
)


def plan(gpu_gib: float = 0, host_gib: float = 0, share_gib: float | None = None, error: float = 0.1) -> EnginePlan:
    share = None if share_gib is None else int(share_gib * GIB)
    need = MemoryNeed(
        gpu_bytes=int(gpu_gib * GIB),
        host_bytes=int(host_gib * GIB),
        gpu_share_bytes=share,
        error=error,
        advice=("a max_model_len of 8192 would fit",),
    )
    return EnginePlan(memory=need)


def room(gpu_gib: float | None = None, host_gib: float | None = None) -> Room:
    return Room(
        None if gpu_gib is None else int(gpu_gib * GIB),
        None if host_gib is None else int(host_gib * GIB),
    )


def test_what_fits_may_be_tried() -> None:
    assert may_try(plan(gpu_gib=9.1, host_gib=0.5), room(11.5, 30)) is None


def test_what_does_not_fit_the_card_is_told_with_both_figures_and_what_to_change() -> None:
    failure = may_try(plan(gpu_gib=14), room(11.5, 30))
    assert failure is not None
    assert failure.reason is FailureReason.OUT_OF_MEMORY
    assert "needs about 14.0 GiB, and 11.5 GiB of the card are free" in failure.detail
    assert "a max_model_len of 8192 would fit" in failure.detail


def test_what_does_not_fit_the_machine_is_refused_as_well() -> None:
    failure = may_try(plan(host_gib=40), room(None, 24))
    assert failure is not None
    assert "24.0 GiB of this machine's memory are free" in failure.detail


@pytest.mark.parametrize(("error", "is_refused"), [(0.0, True), (0.05, True), (0.1, False), (0.3, False)])
def test_a_plan_refuses_only_what_its_own_error_does_not_explain(error: float, is_refused: bool) -> None:
    assert (may_try(plan(gpu_gib=12.3, error=error), room(11.5)) is not None) is is_refused


def test_what_may_not_fit_is_told_although_it_may_be_tried() -> None:
    assert shortage(plan(gpu_gib=12.3), room(11.5)) is not None
    assert shortage(plan(gpu_gib=11.4), room(11.5)) is None


def test_what_is_not_known_stops_nobody() -> None:
    assert may_try(EnginePlan(gaps=("unknown",)), room(0, 0)) is None
    assert may_try(plan(gpu_gib=99, host_gib=99), Room()) is None


def test_an_engine_with_a_share_of_the_card_has_to_fit_into_that() -> None:
    assert may_try(plan(gpu_gib=11, share_gib=11.6), room(11.7)) is None
    failure = may_try(plan(gpu_gib=14, share_gib=11.6), room(11.7))
    assert failure is not None
    assert "11.6 GiB of the card are what its settings let it have" in failure.detail
    need = plan(gpu_gib=8, share_gib=11.6).memory
    assert need is not None
    assert need.gpu_taken_bytes == int(11.6 * GIB)


def test_what_others_give_back_counts_as_free() -> None:
    assert may_try(plan(gpu_gib=10), room(4).plus(8 * GIB, 0)) is None
    assert Room().plus(1, 1) == Room()


@pytest.mark.parametrize(
    ("measured", "error", "expected"), [(40, 0.15, False), (34, 0.15, False), (32, 0.15, True), (20, 0.8, False)]
)
def test_slow_is_under_half_of_the_plan_and_beyond_its_error(measured: float, error: float, expected: bool) -> None:
    assert is_slow(measured, 66.0, error) is expected


def test_speed_falls_with_what_is_in_the_context() -> None:
    speed = ExpectedSpeed(token_s=0.02, context_token_s=1e-6, error=0.15)
    assert speed.decode_tokens_per_s(0) == pytest.approx(50)
    assert speed.decode_tokens_per_s(10_000) == pytest.approx(1 / 0.03)


def test_an_engine_whose_memory_is_not_on_the_card_is_noticed() -> None:
    need = plan(gpu_gib=9).memory
    assert need is not None
    assert is_off_the_card(need, Held(gpu_bytes=300 << 20, host_bytes=9 * GIB))
    assert not is_off_the_card(need, Held(gpu_bytes=8 * GIB, host_bytes=GIB))
    assert not is_off_the_card(need, Held(gpu_bytes=None, host_bytes=9 * GIB))
