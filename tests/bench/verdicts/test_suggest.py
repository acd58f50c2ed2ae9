"""Which order is proposed, why, and what is refused."""

from __future__ import annotations

import tomllib
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from bench.records.record import ClosedLoad, Report, Run, Scalar, TargetRecord, WorkloadRecord, write
from bench.verdicts import suggest as command
from bench.verdicts.candidates import RefusedError
from bench.verdicts.suggest import suggest, text, toml
from gguf_server import config
from tests.bench.records import sample_result
from tests.bench.reports.test_report import HOSTILE

GIB = 1 << 30
CARD = "NVIDIA GeForce RTX 3060"


def engine(name: str, *, kind: str = "vllm", card: str | None = CARD, model: str = "m", **more: Scalar) -> TargetRecord:
    table: dict[str, Scalar] = {"kind": kind, **more}
    known = {"vllm": "vllm", "llamacpp": "llama.cpp"}
    memory = 12 * GIB if card else None
    return TargetRecord(
        name, "http://h:1", known.get(kind, kind), model=model, card=card, card_memory_bytes=memory, engine_table=table
    )


def run(target: str, *, streams: int = 1, kinds: dict[str, int] | None = None, **figures: float) -> Run:
    usual = {"goodput_per_s": 1.0, "ttft_s_p95": 1.0, "output_tok_per_s": 100.0, "errors": 0.0}
    return Run(target, "w", ClosedLoad(streams), 0, {**usual, **figures}, kinds or {})


def result(targets: Sequence[TargetRecord], runs: Sequence[Run], *, cpu: str = "one") -> Report:
    sample = sample_result.report()
    machine = replace(sample.machine, cpu=cpu)
    return replace(
        sample, machine=machine, targets=tuple(targets), runs=tuple(runs), workloads=(WorkloadRecord("w"),), notes=()
    )


def chain(report: Report, **options: Any) -> list[str]:
    return [placed.candidate.name for placed in suggest([report], **options).chain]


@pytest.mark.parametrize(
    ("a", "b", "first", "reason"),
    [
        ({"goodput_per_s": 1.0, "ttft_s_p95": 9.0}, {"goodput_per_s": 0.9, "ttft_s_p95": 1.0}, "a", "goodput"),
        ({"goodput_per_s": 0.97, "ttft_s_p95": 1.0}, {"goodput_per_s": 1.0, "ttft_s_p95": 2.0}, "a", "first token"),
        ({"output_tok_per_s": 90.0}, {"output_tok_per_s": 100.0}, "b", "tokens a second"),
        ({"output_tok_per_s": 99.0}, {"output_tok_per_s": 100.0}, "a", "nothing measured sets it apart"),
    ],
)
def test_goodput_decides_then_the_first_token_then_speed(
    a: dict[str, float], b: dict[str, float], first: str, reason: str
) -> None:
    runs = [replace(run(name), figures={**run(name).figures, **more}) for name, more in (("a", a), ("b", b))]
    found = suggest([result([engine("a"), engine("b")], runs)])
    assert found.chain[0].candidate.name == first
    assert reason in found.chain[0].reason


def test_an_engine_with_errors_is_last_however_fast() -> None:
    runs = [run("a", goodput_per_s=99.0, errors=1.0, kinds={"http_500": 1}), run("b")]
    found = suggest([result([engine("a"), engine("b")], runs)])
    assert [placed.candidate.name for placed in found.chain] == ["b", "a"]
    assert found.chain[1].reason.startswith("last, since 1 requests failed (http 500 1)")


def test_an_engine_that_never_came_up_is_last_and_has_no_figures() -> None:
    broken = TargetRecord("a", "", "vllm")
    report = result([broken, engine("b")], [Run("a", "w", ClosedLoad(1), 0, {}, {"server_not_ready": 1}), run("b")])
    found = suggest([report])
    assert [placed.candidate.name for placed in found.chain] == ["b", "a"]
    assert "no figures that could be compared" in found.chain[1].reason
    assert tomllib.loads(toml(found))["engines"][1] == {"kind": "vllm"}


def test_an_engine_that_does_not_fit_comes_after_those_that_do() -> None:
    runs = [run("a", goodput_per_s=2.0, gpu_peak_bytes=10.0 * GIB), run("b", gpu_peak_bytes=5.0 * GIB)]
    report = result([engine("a"), engine("b")], runs)
    assert chain(report) == ["a", "b"]
    assert chain(report, memory_bytes=8 * GIB) == ["b", "a"]


def test_only_rows_that_all_have_are_compared() -> None:
    runs = [run("a"), run("b"), run("a", streams=8, goodput_per_s=50.0, output_tok_per_s=1000.0)]
    (first, _) = suggest([result([engine("a"), engine("b")], runs)]).chain
    assert "100 tok/s over 1 row;" in first.reason
    assert "nothing measured sets it apart" in first.reason


def test_results_of_several_files_are_put_together() -> None:
    reports = [result([engine("a")], [run("a")]), result([engine("b")], [run("b", goodput_per_s=3.0)])]
    assert [placed.candidate.name for placed in suggest(reports).chain] == ["b", "a"]


def test_an_engine_on_the_processor_may_stand_in_the_same_chain() -> None:
    targets = [engine("a", kind="llamacpp"), engine("b", kind="llamacpp", card=None)]
    found = suggest([result(targets, [run("a", goodput_per_s=2.0), run("b")])])
    assert tomllib.loads(toml(found))["engines"] == [
        {"kind": "llamacpp", "device": "cuda"},
        {"kind": "llamacpp", "device": "cpu"},
    ]
    assert "computes on the processor" in found.chain[1].reason


@pytest.mark.parametrize(
    ("reports", "reason"),
    [
        ([result([engine("a"), engine("b", model="n")], [run("a"), run("b")])], "different models (m, n)"),
        (
            [result([engine("a")], [run("a")]), result([engine("b", card="RTX 5060 Ti")], [run("b")])],
            "different cards",
        ),
        ([result([engine("a")], [run("a")]), result([engine("a", card="other")], [run("a")])], "on another card"),
        (
            [result([engine(n, card=None)], [run(n)], cpu=n) for n in ("a", "b")],
            "different machines (a, b)",
        ),
        ([result([engine("a")], [run("a")]), result([engine("a", dtype="auto")], [run("a")])], "different settings"),
        ([result([engine("a")], [])], "no engine in the results\na is left out: it was not measured."),
        ([result([TargetRecord("g", "", "gateway", model="m")], [run("g")])], "gateway is no engine of a service"),
    ],
    ids=["models", "cards", "cards of one name", "machines", "settings", "nothing", "no engine"],
)
def test_results_that_cannot_decide_are_refused(reports: list[Report], reason: str) -> None:
    with pytest.raises(RefusedError) as refused:
        suggest(reports)
    assert reason in str(refused.value)


@pytest.mark.parametrize(("name", "sha256"), [("/models/Tiny.gguf", None), ("tiny", None), ("served-name", "ab" * 32)])
def test_one_file_may_have_several_names(name: str, sha256: str | None) -> None:
    a, b = engine("a", model="Tiny"), engine("b", model=name)
    files = tuple(replace(file, sha256=sha256) for file in sample_result.report().targets[0].files)
    report = result([replace(a, files=files), replace(b, files=files)], [run("a"), run("b")])
    assert chain(report) == ["a", "b"]
    if sha256 is None:
        assert chain(report, model="tiny") == ["a", "b"]


def test_one_of_several_models_can_be_asked_for() -> None:
    report = result([engine("a"), engine("b"), engine("c", model="n")], [run("a"), run("b"), run("c")])
    found = suggest([report], model="m")
    assert [placed.candidate.name for placed in found.chain] == ["a", "b"]
    assert "c is left out: it serves n." in found.notes
    assert chain(report, names=["c"]) == ["c"]


def test_a_proxy_is_no_engine_and_says_so() -> None:
    proxy = TargetRecord("litellm", "http://h:2", "litellm", model="m")
    found = suggest([result([engine("a"), proxy], [run("a"), run("litellm")])])
    assert "litellm is left out: litellm is no engine of a service." in found.notes


def test_what_is_pasted_is_a_valid_configuration(tmp_path: Path) -> None:
    targets = [
        engine("a", quantization="gguf", gpu_memory_utilization=0.9, tokenizer="o/n"),
        engine("b", kind="llamacpp", n_ctx_total=28768, device="cuda"),
        engine("c", kind="llama-server", device="cpu"),
        engine("d", kind="openai", url="http://h:5/v1"),
    ]
    found = suggest([result(targets, [run(name, goodput_per_s=9.0 - n) for n, name in enumerate("abcd")])])
    path = tmp_path / "gguf-server.toml"
    base = '[services.mine]\nmodel = "m"\nservice_name = "s"\ntitle = "t"\npaths = ["/m"]\nweights = "hf:o/n/f.gguf"\n'
    base += "max_model_len = 4096\n"
    path.write_text(base + toml(found, "mine"), encoding="utf-8")
    service = config.load(path, environ={}).services["mine"]
    assert [of.kind for of in service.engines] == ["vllm", "llamacpp", "llama-server", "openai"]
    assert toml(found).startswith('[[engines]]\nkind = "vllm"\n')


def test_what_a_file_says_of_programs_and_keys_is_not_proposed() -> None:
    evil = engine("a", python="/tmp/evil", binary="evil", extra_args="--evil", api_key_file="evil", n_batch=64)
    report = result([evil], [run("a")])
    assert tomllib.loads(toml(suggest([report]))) == {"engines": [{"kind": "vllm", "n_batch": 64}]}


def test_hostile_names_and_settings_stay_what_they_are() -> None:
    report = result([engine(HOSTILE, tokenizer=HOSTILE, model=HOSTILE)], [run(HOSTILE)])
    found = suggest([report])
    told = text(found, "my service")
    assert not {"\x1b", "\u202e"} & set(told)
    assert told.count("```") == 2
    (service,) = tomllib.loads(toml(found, "my service"))["services"].values()
    assert set(service["engines"][0]) == {"kind", "tokenizer"}


def test_files_that_differ_and_few_repetitions_are_mentioned() -> None:
    sample = sample_result.report()
    other = replace(sample.targets[0], files=(replace(sample.targets[0].files[0], sha256="cd" * 32),))
    notes = suggest([replace(sample, targets=(other, sample.targets[1]))]).notes
    assert any("different files" in note for note in notes)
    assert "Repetitions of some rows: 3. With fewer than 4, a difference may be chance." in notes


@pytest.fixture
def suggested(tmp_path: Path) -> Callable[..., int]:
    def of(*reports: Report, arguments: Sequence[str] = ()) -> int:
        for index, report in enumerate(reports):
            write(report, tmp_path / f"{index}.json")
        return command.main([*(str(tmp_path / f"{index}.json") for index in range(len(reports))), *arguments])

    return of


def test_the_command_prints_reasons_and_toml(suggested: Callable[..., int], capsys: pytest.CaptureFixture[str]) -> None:
    assert suggested(sample_result.report(), arguments=["--service", "qwen3"]) == 0
    told = capsys.readouterr().out
    assert "1. vllm: 100% of the best engine's goodput" in told
    assert '```toml\n[[services.qwen3.engines]]\nkind = "vllm"\nquantization = "gguf"\n' in told


def test_a_refusal_is_1_and_a_wrong_file_2(
    suggested: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert suggested(sample_result.report(), arguments=["--model", "other"]) == 1
    assert "there is no engine in the results" in capsys.readouterr().err
    (tmp_path / "wrong.json").write_text("[]", encoding="utf-8")
    assert command.main([str(tmp_path / "wrong.json")]) == 2
