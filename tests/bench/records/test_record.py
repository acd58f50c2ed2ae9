"""What is in a result, what is never in one, and which files are refused."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from jsonschema import Draft202012Validator, ValidationError

from bench.records.record import (
    GAP_EDGES_S,
    RecordError,
    Report,
    Scalar,
    dump,
    gap_histogram,
    json_schema,
    parse,
    read,
    write,
)
from bench.records.redaction import argv_without_secrets, url_without_secrets
from tests.bench.records.sample_result import SAMPLE, report

_PUBLISHED = Path(__file__).parents[3] / "docs" / "bench-result.schema.json"


@pytest.fixture(scope="module")
def sample() -> Report:
    return report()


def test_the_published_schema_is_the_programs_and_a_valid_one() -> None:
    published = json.loads(_PUBLISHED.read_text(encoding="utf-8"))
    assert published == json_schema(), "run: python -m bench.records.record > docs/bench-result.schema.json"
    Draft202012Validator.check_schema(published)


def test_the_sample_is_what_the_writer_makes_and_fits_the_schema(sample: Report) -> None:
    assert SAMPLE.read_bytes() == dump(sample), "run: python -m tests.bench.records.sample_result"
    Draft202012Validator(json_schema()).validate(json.loads(SAMPLE.read_bytes()))


def test_what_is_written_is_read_again_and_nothing_else_stays(sample: Report, tmp_path: Path) -> None:
    write(sample, tmp_path / "result.json")
    assert read(tmp_path / "result.json") == sample
    assert [file.name for file in tmp_path.iterdir()] == ["result.json"]


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("another version", {"schema": "gguf-server-bench/2"}, "not 'gguf-server-bench/1'"),
        ("a field that nobody knows", {"prompts": ["why?"]}, "prompts"),
        ("a time without a zone", {"started_at": "2026-01-02T03:04:05"}, "started_at"),
        ("a run of nobody", {"targets": []}, "runs.0"),
        ("a workload named twice", {"workloads": [{"name": "w"}, {"name": "w"}]}, "same name"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_file_that_is_no_result_is_refused_with_its_place(name: str, change: dict[str, Any], message: str) -> None:
    found = {**json.loads(SAMPLE.read_bytes()), **change}
    with pytest.raises(RecordError) as refused:
        parse(json.dumps(found).encode())
    assert message in str(refused.value)
    assert "why?" not in str(refused.value)


@pytest.mark.parametrize("figure", ["NaN", "Infinity", '"7"', "null", "1e999"])
def test_a_figure_is_a_number(figure: str) -> None:
    data = SAMPLE.read_bytes().replace(b'"errors":0.0', f'"errors":{figure}'.encode(), 1)
    with pytest.raises(RecordError):
        parse(data)


def test_errors_have_a_kind_and_no_text(sample: Report) -> None:
    run = replace(sample.runs[0], error_kinds={"HTTP 400: you asked 'why?'": 1})
    with pytest.raises(RecordError) as refused:
        dump(replace(sample, runs=(run,)))
    assert "error_kinds" in str(refused.value)


def test_a_histogram_whose_counts_do_not_fit_its_edges_is_refused(sample: Report) -> None:
    gaps = replace(gap_histogram([0.1]), counts=(1,))
    with pytest.raises(RecordError, match="counts must be one more"):
        dump(replace(sample, runs=(replace(sample.runs[0], gaps=gaps),)))


def test_a_repetition_that_is_there_twice_is_refused(sample: Report) -> None:
    with pytest.raises(RecordError, match="twice"):
        dump(replace(sample, runs=sample.runs[:1] * 2))


@pytest.mark.parametrize("data", [b"", b"[]", b"7", b'"text"', b"{" * 10_000, b"\xff\xfe", b"null"])
def test_rubbish_is_refused_in_words(data: bytes) -> None:
    with pytest.raises(RecordError):
        parse(data)


@given(st.lists(st.floats(min_value=0, max_value=1e4)))
def test_every_gap_is_in_the_histogram_between_the_right_edges(gaps_s: list[float]) -> None:
    found = gap_histogram(gaps_s)
    assert set(found.edges_s) <= set(GAP_EDGES_S)
    bounds = (float("-inf"), *found.edges_s, float("inf"))
    for index, count in enumerate(found.counts):
        assert count == sum(1 for gap in gaps_s if bounds[index] <= gap < bounds[index + 1])


def test_keys_in_command_lines_and_addresses_are_not_published(sample: Report) -> None:
    argv = (
        *("serve", "--api-key", "sk-1", "--hf-token=sk-2", "HF_TOKEN=sk-3", "-H", "Authorization: Bearer sk-4"),
        *("--api-key", "--sk-8x", "KEYS=sk-9"),
    )
    table: dict[str, Scalar] = {"kind": "openai", "api_key": "sk-10", "url": "http://sk-11@host/", "n_batch": 5}
    url = "https://me:sk-5@host:8/v1?key=sk-6#sk-7"
    target = replace(sample.targets[0], argv=argv, url=url, engine_table=table)
    notes = ("asked https://sk-12@host/ with bearer sk-13 in vain",)
    data = dump(replace(sample, targets=(target, *sample.targets[1:]), notes=notes))
    assert b"sk-" not in data
    assert parse(data).targets[0].url == "https://host:8/v1"


def test_what_only_looks_like_a_key_stays() -> None:
    argv = ("--max-tokens", "5", "--tokenizer", "a/b", "--keyboard=qwerty", "--api-key", "--port", "80", "Basic 7B")
    assert argv_without_secrets(argv) == argv
    assert url_without_secrets("http://[::1]:80/x") == "http://[::1]:80/x"
    assert url_without_secrets("http://[::1") == "[redacted]"


def test_a_home_directory_is_not_published(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Path, "home", lambda: Path("/people/ana"))
    assert argv_without_secrets(["/people/ana/m.gguf", "--model=/people/ana/m", "/people/anabel/m"]) == (
        "~/m.gguf",
        "--model=~/m",
        "/people/anabel/m",
    )
    assert url_without_secrets("unix:/people/ana/s") == "unix:~/s"


def test_a_result_without_its_version_does_not_fit_the_schema() -> None:
    found = json.loads(SAMPLE.read_bytes())
    del found["schema"]
    with pytest.raises(ValidationError):
        Draft202012Validator(json_schema()).validate(found)
