"""Several engines' metrics in one exposition."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import generate_latest
from prometheus_client.core import Metric
from prometheus_client.registry import Collector

from gguf_server.metrics import relabelling
from gguf_server.metrics.relabelling import Families, Nonsense
from tests.gguf_server.vllm_metrics import VLLM_TEXT

ONE = {"service": "qwen3", "engine": "0:vllm", "kind": "vllm", "device": "cuda"}
OTHER = {"service": "gemma4", "engine": "0:vllm", "kind": "vllm", "device": "cuda"}


class Shown(Collector):
    def __init__(self, families: Families) -> None:
        self._families = families

    def collect(self) -> Iterator[Metric]:
        return self._families.collect()


def lines(*told: tuple[str, dict[str, str]]) -> list[str]:
    families = Families()
    for text, labels in told:
        families.add(text, labels)
    return generate_latest(Shown(families)).decode().splitlines()


def test_names_stay_and_labels_say_whose_they_are() -> None:
    assert (
        'vllm:num_requests_running{device="cuda",engine="0:vllm",exported_engine="0",kind="vllm",model_name="qwen3",'
        'service="qwen3"} 2.0'
    ) in lines((VLLM_TEXT, ONE))


def test_a_family_of_two_engines_is_there_once() -> None:
    shown = lines((VLLM_TEXT, ONE), (VLLM_TEXT, OTHER))
    heads = [line for line in shown if line.startswith("# TYPE")]
    assert len(heads) == len(set(heads)) == 5
    assert sum(line.startswith("vllm:generation_tokens_total{") for line in shown) == 2


def test_an_interpreters_figures_and_times_of_making_are_left_out() -> None:
    text = "\n".join(lines((VLLM_TEXT, ONE)))
    assert not any(name in text for name in ("python_info", "process_resident", "_created"))


def test_a_histogram_stays_whole() -> None:
    shown = lines((VLLM_TEXT, ONE))
    assert "# TYPE vllm:iteration_tokens_total histogram" in shown
    assert sum(line.startswith("vllm:iteration_tokens_total_") for line in shown) == 4


def test_what_an_engine_calls_by_our_names_is_not_ours() -> None:
    text = "# TYPE gguf_engine_up gauge\ngguf_engine_up 1\ngguf_failovers_total 9\ngguf_worker_steps_total 3\n"
    shown = [line for line in lines((text, ONE)) if not line.startswith("#")]
    assert [line.partition("{")[0] for line in shown] == ["gguf_worker_steps_total"]


def test_a_name_of_two_types_keeps_the_first() -> None:
    counter, gauge = "# TYPE a_total counter\na_total 1\n", "# TYPE a_total gauge\na_total 2\n"
    shown = lines((counter, ONE), (gauge, OTHER))
    assert [line for line in shown if line.startswith("# TYPE")] == ["# TYPE a_total counter"]
    assert len(shown) == 3


def test_a_series_that_is_told_twice_is_there_once() -> None:
    assert len(lines(("a 1\na 2\n", ONE))) == 3


@pytest.mark.parametrize("text", ["<html>sorry</html>", "a{", 'a{b="1"', "a one", "{} 1 2 3", "# TYPE a\n"])
def test_what_is_no_metrics_is_refused_whole(text: str) -> None:
    families = Families()
    with pytest.raises(Nonsense):
        families.add("b 1\n" + text, ONE)
    assert list(families.collect()) == []


def test_more_than_anybody_reads_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(relabelling, "MOST_SAMPLES", 3)
    with pytest.raises(Nonsense):
        Families().add("a 1\nb 1\nc 1\nd 1\n", ONE)


@given(st.text(alphabet='ab_:{}"=,#\\ \n1.TYPEHLcountergu', max_size=60))
def test_whatever_an_engine_tells_comes_out_readable_or_not_at_all(text: str) -> None:
    families = Families()
    try:
        families.add(text, ONE)
    except Nonsense:
        return
    again = Families()
    again.add(generate_latest(Shown(families)).decode(), {})
    assert sum(len(family.samples) for family in again.collect()) == sum(
        len(family.samples) for family in families.collect()
    )
