"""What a reader of a report sees, and what a hostile name in a result cannot do to them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest

from bench.records.quantity import quantity
from bench.records.record import GapHistogram, Report, Run, gap_histogram
from bench.records.rows import rows, spread_text
from bench.reports import plots, report
from bench.reports.markdown import markdown
from bench.reports.page import page
from bench.reports.pictures import distribution
from bench.reports.pictures import plots as plots_of
from tests.bench.records import sample_result
from tests.bench.records.sample_result import SAMPLE

HOSTILE = "</svg><script>alert(1)</script>$\\frac{_|`\x1b[2J\u202e\"'<b onload=x>&amp;中\n# x"


@pytest.fixture(scope="module")
def sample() -> Report:
    return sample_result.report()


@pytest.fixture(scope="module")
def sample_page(sample: Report) -> str:
    return page(sample)


@pytest.fixture(scope="module")
def hostile() -> Report:
    return named(sample_result.report(), HOSTILE)


def named(sample: Report, name: str) -> Report:
    """The sample with one target and one workload of this name, and the name wherever else a server can say one."""
    target = replace(sample.targets[0], name=name, model=name, engine=name, engine_version=name, argv=(name,))
    runs = [run for run in sample.runs if run.target == "vllm" and run.workload == "short-chat"]
    return replace(
        sample,
        suite=name,
        notes=(name,),
        targets=(target,),
        workloads=(replace(sample.workloads[0], name=name, description=name),),
        runs=tuple(replace(run, target=name, workload=name) for run in runs),
        machine=replace(sample.machine, cpu=name, versions={name: name}),
    )


class Page(HTMLParser):
    """Elements with their attributes, and all text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.words = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.words += data

    def attributes(self, *names: str) -> Iterator[str]:
        return (value or "" for _, found in self.elements for name, value in found.items() if name in names)

    def count(self, tag: str) -> int:
        return sum(1 for found, _ in self.elements if found == tag)


def test_the_page_needs_nothing_from_elsewhere(sample_page: str) -> None:
    found = Page(sample_page)
    assert not {"script", "link", "img", "iframe", "object", "image"} & {tag for tag, _ in found.elements}
    assert all(link.startswith("#") for link in found.attributes("href", "xlink:href", "src"))
    assert "url(" not in re.sub(r"url\(#[^)]+\)", "", sample_page)
    assert "@import" not in sample_page
    assert "default-src 'none'" in sample_page


def test_ids_are_unique_and_everything_that_is_pointed_to_is_there(sample_page: str) -> None:
    found = Page(sample_page)
    ids = list(found.attributes("id"))
    assert len(set(ids)) == len(ids)
    pointed_to = {link.removeprefix("#") for link in found.attributes("href", "xlink:href")}
    pointed_to |= {name for value in found.attributes("aria-labelledby", "aria-describedby") for name in value.split()}
    pointed_to |= set(re.findall(r"url\(#([^)]+)\)", sample_page))
    assert pointed_to <= set(ids)


def test_tables_have_captions_and_headings_and_can_be_reached_by_keyboard(sample_page: str) -> None:
    found = Page(sample_page)
    assert found.count("table") == found.count("caption") == list(found.attributes("tabindex")).count("0") == 6
    assert all(attributes.get("scope") in ("row", "col") for tag, attributes in found.elements if tag == "th")
    assert found.count("svg") == len(list(found.attributes("aria-describedby"))) > 0


def test_the_page_tells_figures_predictions_machine_versions_and_hashes(sample_page: str) -> None:
    words = Page(sample_page).words
    for told in ("output tokens (tok/s)", "58.0 ± 15%", "within the bounds", "Example CPU 9000", "0.32.0", "ab" * 32):
        assert told in words
    assert "Made-up figures" in words


@pytest.mark.parametrize(
    "quantity_told", ["streams at once", "requests sent (1/s)", "gap (ms)", "GPU memory (GiB)", "power (W)"]
)
def test_axes_are_labelled_with_their_units(sample_page: str, quantity_told: str) -> None:
    assert re.search(rf"<text[^>]*>{re.escape(quantity_told)}</text>", sample_page)


def test_ink_takes_the_colour_of_the_page(sample_page: str) -> None:
    assert "currentColor" in sample_page
    assert "#000000" not in sample_page


def test_a_plot_is_the_same_each_time(sample: Report) -> None:
    plot = next(plots_of(sample, "short-chat"))
    assert plots.svg(plot) == plots.svg(plot)


def test_a_hostile_name_is_text_on_the_page(hostile: Report) -> None:
    found = Page(page(hostile))
    assert not {"script", "b"} & {tag for tag, _ in found.elements}
    assert not [name for _, attributes in found.elements for name in attributes if name.startswith("on")]
    assert found.count("svg") == found.count("figure") > 6
    assert "alert(1)" in found.words
    assert not set("\x1b\u202e") & set(found.words)


def test_a_hostile_name_is_text_in_markdown(hostile: Report, sample: Report) -> None:
    told = markdown(hostile)
    assert "<script>" not in told.replace("\\<script\\>", "")
    assert "\x1b" not in told
    usual = markdown(named(sample, "vllm"))
    assert [line.count("|") - line.count("\\|") for line in told.splitlines()] == [
        line.count("|") for line in usual.splitlines()
    ]


@pytest.mark.parametrize("name", ["_hidden", "$x$", "模型", "x" * 200, "Mô hình"])
def test_any_name_can_be_drawn(name: str) -> None:
    lines = tuple(plots.Line(shown, index, [1, 2], [3, 4]) for index, shown in enumerate((name, "b")))
    drawn = plots.svg(plots.Plot("k", "title", "x (s)", "y (s)", lines))
    assert f"{name[:5]}" in drawn


def test_more_targets_than_colours_can_be_drawn() -> None:
    lines = tuple(plots.Line(str(index), index, [1], [index]) for index in range(20))
    assert plots.svg(plots.Plot("k", "t", "x", "y", lines)).startswith("<svg")


def test_without_matplotlib_the_message_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(plots, "find_spec", lambda name: None)
    out = tmp_path / "report.html"
    assert report.main([str(SAMPLE), "--html", str(out)]) == 2
    assert "pip install 'gguf-server[bench]'" in capsys.readouterr().err
    assert not out.exists()
    assert report.main([str(SAMPLE), "--html", str(out), "--no-plots"]) == 0
    assert "<svg" not in out.read_text(encoding="utf-8")


def test_a_file_that_is_no_result_ends_the_command_in_words(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    wrong = tmp_path / "wrong.json"
    wrong.write_text("{}", encoding="utf-8")
    assert report.main([str(wrong)]) == 2
    assert report.main([str(tmp_path / "none.json")]) == 2
    assert "schema is missing" in capsys.readouterr().err


def test_markdown_goes_to_standard_output_unless_a_file_is_named(
    tmp_path: Path, sample: Report, capsys: pytest.CaptureFixture[str]
) -> None:
    assert report.main([str(SAMPLE)]) == 0
    assert capsys.readouterr().out == markdown(sample)
    assert report.main([str(SAMPLE), "--markdown", str(tmp_path / "report.md")]) == 0
    assert (tmp_path / "report.md").read_text(encoding="utf-8") == markdown(sample)


def test_a_result_without_runs_has_a_report_all_the_same(sample: Report) -> None:
    empty = replace(sample, runs=(), targets=(), workloads=())
    assert "Example CPU 9000" in page(empty)
    assert "Example CPU 9000" in markdown(empty)


def test_a_figure_that_was_not_measured_is_a_dash_and_no_point(sample: Report) -> None:
    runs = tuple(
        replace(run, figures={"requests": 1.0}) if run.target == "vllm" and run.load.kind == "closed" else run
        for run in sample.runs
    )
    changed = replace(sample, runs=runs)
    assert "| 1 stream | vllm | – |" in markdown(changed)
    first = next(plots_of(changed, "short-chat"))
    assert [line.name for line in first.lines] == ["llama.cpp"]


def test_errors_are_told_by_kind(sample: Report) -> None:
    runs = (replace(sample.runs[0], error_kinds={"http_429": 2, "timeout": 1}), *sample.runs[1:])
    told = markdown(replace(sample, runs=runs))
    assert "| short-chat, 1 stream | vllm | http 429 | 2 |" in told
    assert "Requests that failed" not in markdown(sample)


def test_a_measured_figure_outside_the_plans_bounds_is_called_so(sample: Report) -> None:
    run = sample.runs[0]
    slow = tuple(replace(of, figures={**of.figures, "output_tok_per_s": 20.0}) for of in sample.runs if _same(of, run))
    assert "0.34 | below the bounds" in markdown(replace(sample, runs=slow))


def _same(run: Run, other: Run) -> bool:
    return (run.target, run.workload, run.load) == (other.target, other.workload, other.load)


def test_rows_are_in_order_of_their_load_whatever_the_order_of_the_runs(sample: Report) -> None:
    backwards = replace(sample, runs=sample.runs[::-1])
    assert list(rows(backwards)) == list(rows(sample))
    told = [row.text for row in rows(sample)][:5]
    assert told == [
        f"short-chat, {load}" for load in ("1 stream", "4 streams", "8 streams", "0.5 requests/s", "1 requests/s")
    ]


def test_a_distribution_adds_histograms_up() -> None:
    found = dict(distribution([GapHistogram((1.0, 2.0), (1, 2, 1)), GapHistogram((2.0, 4.0), (0, 4, 0))]))
    assert found == {1.0: 1 / 8, 2.0: 3 / 8, 4.0: 7 / 8}
    assert distribution([gap_histogram([])]) == []


@pytest.mark.parametrize(
    ("name", "value", "told"),
    [
        ("output_tok_per_s", 1234.5, "output tokens (tok/s): 1,234"),
        ("ttft_s_p95", 99.96, "time to first token, p95 (s): 100.0"),
        ("gap_s_p50", 0.0123456, "gap between tokens, p50 (ms): 12.3"),
        ("gpu_peak_bytes", 3 << 29, "GPU memory, peak (GiB): 1.50"),
        ("errors", 0.0, "requests that failed: 0"),
        ("new_thing_s", 1e-9, "new thing s (s): 1.00e-09"),
        ("decode_tok_per_s_p50", 88.04, "output tokens of one stream, p50 (tok/s): 88.0"),
    ],
)
def test_a_figure_is_told_in_its_unit_with_three_digits(name: str, value: float, told: str) -> None:
    assert f"{quantity(name).title}: {quantity(name).text(value)}" == told


def test_more_is_better_of_speed_and_less_of_time() -> None:
    names = ("output_tok_per_s", "goodput_per_s", "ttft_s_p95", "gpu_peak_bytes", "errors", "prompt_tok")
    assert [quantity(name).better for name in names] == ["higher", "higher", "lower", "lower", "lower", None]


def test_a_spread_is_told_where_there_is_one(sample: Report) -> None:
    same = [replace(sample.runs[0], figures={"output_tok_per_s": 10.0})] * 2
    assert spread_text(same, "output_tok_per_s") == "10.0"
