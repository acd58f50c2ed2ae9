from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.measuring.figures import LatencyTarget, figures, miscounts, spread
from bench.measuring.load import Request
from bench.measuring.result import percentile

TARGET = LatencyTarget(ttft_s=1.0, gap_s=0.5)


def request(sent_s: float, *chunk_s: float, **more: object) -> Request:
    """Of three tokens that are told, twelve prompt tokens of which two were cached, ended a second after its text."""
    usage = {
        "prompt_tokens": 12,
        "completion_tokens": 3,
        "total_tokens": 15,
        "prompt_tokens_details": {"cached_tokens": 2},
    }
    made = Request(sent_s, chunk_s=list(chunk_s), pieces=["w"] * len(chunk_s), said=["w"] * len(chunk_s), usage=usage)
    made.end_s = chunk_s[-1] + 1 if chunk_s else sent_s + 1
    return replace(made, **more)  # type: ignore[arg-type]


def test_tokens_are_told_by_the_server_and_divided_by_first_send_to_last_byte() -> None:
    found = figures([request(10.0, 11.0, 12.0, 13.0), request(11.0, 12.0, 17.0, 19.0)], 3, TARGET)
    assert (found["wall_s"], found["requests"], found["errors"]) == (10, 2, 0)
    assert (found["output_tok"], found["output_tok_per_s"]) == (6, 0.6)
    assert (found["prompt_tok"], found["prompt_tok_per_s"], found["cached_tok"]) == (24, 2.4, 4)
    assert (found["total_tok_per_s"], found["requests_per_s"], found["tok_per_chunk"]) == (3, 0.2, 1)


def test_times_are_those_of_chunks_with_text() -> None:
    found = figures([request(10.0, 11.0, 12.0, 13.0), request(11.0, 13.0, 17.0, 19.0)], 3, TARGET)
    assert (found["ttft_s_p50"], found["ttft_s_p95"], found["ttft_s_p99"]) == pytest.approx((1.5, 1.95, 1.99))
    assert (found["gap_s_p50"], found["gap_s_p99"]) == pytest.approx((1.5, 3.94))
    assert found["e2e_s_p50"] == pytest.approx(6.5)
    assert (found["tpot_s_p50"], found["decode_tok_per_s_p50"]) == pytest.approx((2.0, (1 + 1 / 3) / 2))
    assert found["prefill_tok_per_s_p50"] == pytest.approx((10 + 5) / 2)


def test_failed_requests_are_errors_and_nothing_else_but_time() -> None:
    found = figures([request(10.0, 10.5, 11.0, 11.5), request(10.0, 19.0, error="broken")], 3, TARGET)
    assert (found["wall_s"], found["errors"], found["output_tok"], found["ttft_s_p99"]) == (10, 1, 3, 0.5)


def test_where_all_fail_no_time_is_told() -> None:
    found = figures([request(10.0, error="HTTP 500")], 3, TARGET)
    assert (found["errors"], found["output_tok_per_s"]) == (1, 0)
    assert not [name for name in found if name.startswith(("ttft", "gap", "e2e", "tpot"))]


def test_goodput_counts_requests_that_began_and_went_on_in_time() -> None:
    requests = [
        request(0.0, 1.0, 1.5, 2.0),
        request(0.0, 1.1, 1.5, 2.0),
        request(0.0, 0.5, 0.9, 2.0),
        request(0.0, 0.5, 0.7, 0.9, error="broken"),
    ]
    found = figures(requests, 3, TARGET)
    assert (found["goodput_per_s"], found["goodput_share"]) == pytest.approx((1 / 3, 0.25))


def test_counts_that_cannot_be_right_are_told() -> None:
    assert not miscounts(request(0.0, 1.0, 2.0, 3.0))
    assert not miscounts(request(0.0, 1.0, 2.0, 3.0, 4.0)), "text held back may come in a chunk of its own"
    assert miscounts(request(0.0, 1.0, 2.0, 3.0, 4.0, 5.0))
    assert not miscounts(request(0.0, 1.0)), "several tokens may come in a chunk"
    assert miscounts(request(0.0, 1.0, usage={"prompt_tokens": 5, "completion_tokens": 3, "total_tokens": 9}))
    assert not miscounts(request(0.0, 1.0, usage=None))


def test_without_usage_chunks_are_counted_and_it_is_said() -> None:
    found = figures([request(0.0, 1.0, 2.0, usage=None, finish_reason="stop")], 3, TARGET)
    assert (found["output_tok"], found["without_usage"], found["prompt_tok"]) == (2, 1, 0)
    assert "prefill_tok_per_s_p50" not in found


def test_the_first_text_that_is_no_thought_is_told_where_there_are_thoughts() -> None:
    assert "content_ttft_s_p50" not in figures([request(0.0, 1.0, 2.0)], 3, TARGET)
    thoughtful = request(1.0, 2.0, 4.0, said=["w"], first_said_s=4.0)
    assert figures([thoughtful], 3, TARGET)["content_ttft_s_p50"] == 3


def test_lateness_is_told_where_there_was_a_time_to_be_sent_at() -> None:
    assert "late_sends" not in figures([request(0.0, 1.0)], 3, TARGET)
    found = figures([request(5.0, 6.0, due_s=5.0), request(7.0, 8.0, due_s=6.5)], 3, TARGET)
    assert (found["late_sends"], found["late_s_max"]) == (1, 0.5)


def test_engines_behind_a_gateway_are_counted() -> None:
    assert "engines" not in figures([request(0.0, 1.0)], 3, TARGET)
    requests = [request(0.0, 1.0, engine=name) for name in ("vllm", "vllm", "llama.cpp")]
    assert figures(requests, 3, TARGET)["engines"] == 2


@given(st.lists(st.floats(0, 1e6), min_size=1, max_size=60), st.sampled_from((50, 95, 99)))
def test_percentiles_are_those_of_numpy(values: list[float], percent: int) -> None:
    wanted = float(np.percentile(values, percent))
    assert percentile(values, percent) == pytest.approx(wanted)
    assert spread("x", values)[f"x_p{percent}"] == pytest.approx(wanted)
