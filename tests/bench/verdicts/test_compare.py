"""What a comparison of two results says, and when it fails a build."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.records.record import ClosedLoad, Report, Run, WorkloadRecord, write
from bench.verdicts import compare as command
from bench.verdicts.comparison import NoMatchError, compare
from bench.verdicts.ratio import ratio, student_t
from tests.bench.records import sample_result

SPEEDS = (100.0, 101.0, 99.0, 100.5, 99.5, 100.2)


def result(speeds: tuple[float, ...], *, target: str = "llama.cpp", errors: float = 0, cpu: str = "one") -> Report:
    """One row; `speeds` are those of its repetitions."""
    sample = sample_result.report()
    runs = tuple(
        Run(target, "short-chat", ClosedLoad(4), turn, {**figures(speed), "errors": errors})
        for turn, speed in enumerate(speeds)
    )
    targets = tuple(replace(of, name=target) for of in sample.targets[1:])
    return replace(sample, targets=targets, runs=runs, machine=replace(sample.machine, cpu=cpu))


def figures(speed: float) -> dict[str, float]:
    return {"output_tok_per_s": speed, **({"ttft_s_p95": 50 / speed} if speed else {})}


def times(factor: float, speeds: tuple[float, ...] = SPEEDS) -> tuple[float, ...]:
    return tuple(factor * speed for speed in speeds)


@pytest.fixture
def compared(tmp_path: Path) -> Callable[..., int]:
    """The command on two results, with the arguments given."""

    def run(first: Report, second: Report, *arguments: str) -> int:
        write(first, tmp_path / "a.json")
        write(second, tmp_path / "b.json")
        return command.main([str(tmp_path / "a.json"), str(tmp_path / "b.json"), *arguments])

    return run


@pytest.mark.parametrize(
    ("factor", "verdict"),
    [(1.1, "faster"), (0.9, "slower"), (1.001, "no difference shown"), (1.0, "no difference shown")],
)
def test_a_figure_is_called_faster_or_slower_only_where_that_is_shown(factor: float, verdict: str) -> None:
    found = compare(result(SPEEDS, cpu="a"), result(times(factor, SPEEDS[::-1]), cpu="b")).differences
    assert [(of.figure, of.verdict) for of in found] == [("output_tok_per_s", verdict), ("ttft_s_p95", verdict)]
    for of in found:
        assert of.gain is not None
        assert of.gain.interval is not None
        assert of.gain.value == pytest.approx(factor, rel=1e-3)
        assert of.gain.interval.low <= of.gain.value <= of.gain.interval.high


def test_three_repetitions_are_too_few_and_it_says_so(
    compared: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    assert compared(result(SPEEDS[:3]), result(times(2, SPEEDS[:3]))) == 0
    told = capsys.readouterr().out
    assert "| 2.000 | – | too few repetitions |" in told
    assert "Fewer than 4 repetitions on a side have no confidence interval" in told


def test_repetitions_of_one_measurement_are_pairs(
    compared: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    drifting = (50.0, 80.0, 120.0, 200.0, 310.0)
    both = result(drifting)
    other = result(times(1.05, drifting), target="vllm")
    both = replace(both, targets=both.targets + other.targets, runs=both.runs + other.runs)
    assert compared(both, both, "--target", "llama.cpp=vllm") == 0
    assert capsys.readouterr().out.count("| faster |") == 2
    unpaired = compare(result(drifting), replace(other, notes=("elsewhere",)), [("llama.cpp", "vllm")])
    assert {of.verdict for of in unpaired.differences} == {"no difference shown"}


@pytest.mark.parametrize(
    ("second", "status", "reason"),
    [
        (result(times(0.9)), 1, "0.900 of what it was"),
        (result(times(0.96)), 0, ""),
        (result(times(1.2)), 0, ""),
        (result((60.0, 130.0, 62.0, 125.0)), 0, ""),
        (result(times(0.9, SPEEDS[:2])), 1, "0.9"),
        (result(times(0.0)), 1, "0.000 of what it was"),
        (result(SPEEDS, errors=1), 1, "6 failed requests instead of 0"),
    ],
    ids=["slower", "not much slower", "faster", "uncertain", "no interval", "nothing left", "errors"],
)
def test_fail_below_fails_for_what_is_shown_to_be_worse(
    compared: Callable[..., int], capsys: pytest.CaptureFixture[str], second: Report, status: int, reason: str
) -> None:
    assert compared(result(SPEEDS), second, "--fail-below", "0.95") == status
    assert reason in capsys.readouterr().err
    assert compared(result(SPEEDS), second) == 0


def test_a_row_that_is_gone_fails_and_a_new_one_does_not(
    compared: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    more = result(SPEEDS)
    more = replace(more, runs=more.runs + tuple(replace(run, load=ClosedLoad(8)) for run in more.runs))
    assert compared(more, result(SPEEDS), "--fail-below", "0.5") == 1
    assert "short-chat, 8 streams, llama.cpp: gone" in capsys.readouterr().err
    assert compared(result(SPEEDS), more, "--fail-below", "0.5") == 0


def test_a_workload_of_other_lengths_is_another_workload(
    compared: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    def asks(n_prompt: int, seed: int) -> tuple[WorkloadRecord, ...]:
        return (WorkloadRecord("short-chat", parameters={"n_prompt": n_prompt, "seed": seed}),)

    first, second = result(SPEEDS), result(SPEEDS)
    assert compared(replace(first, workloads=asks(5, 1)), replace(second, workloads=asks(6, 1))) == 2
    assert "no workload was measured under the same load in both" in capsys.readouterr().err
    assert compared(replace(first, workloads=asks(5, 1)), replace(second, workloads=asks(5, 2))) == 0


def test_what_else_is_different_is_told(compared: Callable[..., int], capsys: pytest.CaptureFixture[str]) -> None:
    second = result(SPEEDS, cpu="other")
    second = replace(second, targets=(replace(second.targets[0], engine_version="9.9"),))
    assert compared(result(SPEEDS), second) == 0
    told = capsys.readouterr().out
    assert "The results are of different machines." in told
    assert "llama.cpp: version 0.3.36 → 9.9" in told


def test_targets_of_different_names_must_be_named(
    compared: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    first, second = result(SPEEDS), result(SPEEDS, target="vllm")
    assert compared(first, second) == 2
    assert "name one: --target FIRST=SECOND" in capsys.readouterr().err
    assert compared(first, second, "--target", "llama.cpp=vllm") == 0
    assert compared(first, second, "--target", "nobody=vllm") == 2
    assert "the first result has no target 'nobody'; it has: llama.cpp" in capsys.readouterr().err


def test_less_memory_is_a_gain_that_is_called_less() -> None:
    def peak(n_bytes: float) -> Report:
        of = result(SPEEDS)
        runs = tuple(replace(run, figures={"gpu_peak_bytes": n_bytes + run.repetition}) for run in of.runs)
        return replace(of, runs=runs)

    (of,) = compare(peak(4e9), peak(3e9), figures=("gpu_peak_bytes",)).differences
    assert of.verdict == "less"
    (of,) = compare(peak(3e9), peak(4e9), figures=("gpu_peak_bytes",)).differences
    assert of.verdict == "more"


def test_results_without_a_common_row_are_not_compared() -> None:
    other = result(SPEEDS)
    with pytest.raises(NoMatchError):
        compare(result(SPEEDS), replace(other, runs=tuple(replace(run, load=ClosedLoad(5)) for run in other.runs)))


def test_the_interval_holds_the_truth_as_often_as_it_says() -> None:
    generator = random.Random(5)
    truth, hits, trials = 1.1, 0, 250
    for trial in range(trials):
        before = [generator.gauss(100, 5) for _ in range(5)]
        after = [generator.gauss(100 * truth, 5) for _ in range(5)]
        found = ratio(after, before, paired=False, seed=trial)
        assert found is not None
        assert found.interval is not None
        hits += found.interval.low <= truth <= found.interval.high
    assert hits >= 0.93 * trials


@given(st.lists(st.floats(min_value=0.01, max_value=1e6), min_size=4, max_size=6), st.booleans())
def test_a_measurement_over_itself_shows_no_difference(values: list[float], paired: bool) -> None:
    found = ratio(values, values, paired=paired)
    assert found is not None
    assert found.value == 1
    assert not found.shows_difference


def test_a_ratio_of_nothing_or_to_nothing_is_none_and_the_seed_decides_the_interval() -> None:
    assert ratio([], [1.0], paired=False) is None
    assert ratio([1.0], [0.0], paired=False) is None
    assert ratio([-1.0], [1.0], paired=False) is None
    assert ratio(SPEEDS, SPEEDS, paired=False, seed=3) == ratio(SPEEDS, SPEEDS, paired=False, seed=3)
    with pytest.raises(ValueError, match="same number"):
        ratio([1.0], [1.0, 2.0], paired=True)


@pytest.mark.parametrize(("degrees", "value"), [(3, 3.182), (4, 2.776), (9, 2.262), (30, 2.042)])
def test_students_t_agrees_with_the_printed_table(degrees: int, value: float) -> None:
    assert student_t(0.975, degrees) == pytest.approx(value, rel=2e-3)
