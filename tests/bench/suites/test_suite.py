from __future__ import annotations

from pathlib import Path
from typing import get_args

import pytest

from bench.records.record import ClosedLoad, OpenLoad
from bench.suites import asked
from bench.suites.schedule import blocks
from bench.suites.suite import Preset, Suite, SuiteError, TargetSpec, parse_suite, read_suite, suite_names
from bench.workloads.lengths import TYPICAL
from gguf_server.config import read_preset
from weights import cards

SUITE = """
title = "Two fakes"
[[parts]]
name = "fakes"
targets = [
    { kind = "url", name = "a", url = "http://127.0.0.1:1" },
    { kind = "url", name = "b", url = "http://127.0.0.1:2" },
]
[[parts.workloads]]
name = "words"
kind = "words"
streams = [1, 4]
rates_per_s = [2.0]
arrivals = 5
[[parts.workloads]]
name = "only b"
kind = "words"
streams = [2]
requests = 3
targets = ["b"]
"""


def suite(text: str = SUITE) -> Suite:
    return parse_suite(text, "fakes", "fakes.toml")


@pytest.mark.parametrize("name", suite_names())
def test_every_suite_of_this_project_can_be_read_and_asked(name: str) -> None:
    for part in read_suite(name).parts:
        for workload in part.workloads:
            scenario = asked.scenario(workload, TYPICAL, 60)
            assert asked.record(workload, scenario).name == workload.name
            assert scenario.script("seed", 0).says


@pytest.mark.parametrize("name", ["rtx-5060-ti", "rtx-3060"])
def test_the_cards_suites_hold_vllm_against_llama_cpp_as_the_presets_have_them(name: str) -> None:
    suite = read_suite(name)
    assert cards.get(suite.card or "").name
    for part in suite.parts:
        assert not part.together
        first, second = part.targets
        assert isinstance(first, Preset)
        assert isinstance(second, Preset)
        assert (first.engine, second.engine, second.device) == ("vllm", "llamacpp", "cuda")
        preset = read_preset(first.preset)
        assert first.preset == second.preset
        for workload in part.workloads:
            longest = int(workload.options.get("n_prompt", 0)) + int(workload.options.get("max_tokens", 0))
            assert longest <= preset["max_model_len"]


def test_the_longest_context_of_the_qwen3_suite_is_the_whole_of_the_service() -> None:
    [part] = read_suite("rtx-5060-ti").parts
    longest = max(sum(int(w.options.get(key, 0)) for key in ("n_prompt", "max_tokens")) for w in part.workloads)
    assert longest == read_preset("qwen3")["max_model_len"] == 14384


def test_targets_take_turns_within_each_repetition_where_they_run_together() -> None:
    [part] = suite().parts
    [block] = blocks(part, ["a", "b"], repetitions=2)
    assert block.servers == ("a", "b")
    runs = [(slot.workload.name, slot.load, slot.repetition, slot.target) for slot in block.slots]
    assert runs[:4] == [("words", ClosedLoad(1), turn, name) for turn in (0, 1) for name in ("a", "b")]
    assert runs[-2:] == [("only b", ClosedLoad(2), turn, "b") for turn in (0, 1)]
    assert {slot.people for slot in block.slots if slot.load == OpenLoad(2.0)} == {5}
    assert {slot.people for slot in block.slots if slot.workload.name == "only b"} == {6}


def test_targets_that_share_a_card_are_started_one_at_a_time_in_every_repetition() -> None:
    [part] = suite(SUITE.replace('name = "fakes"', 'name = "fakes"\ntogether = false')).parts
    found = blocks(part, ["a", "b"], repetitions=2)
    assert [block.servers for block in found] == [("a",), ("b",), ("a",), ("b",)]
    assert {slot.target for block in found for slot in block.slots if block.servers == ("a",)} == {"a"}


def test_all_targets_of_a_repetition_are_asked_the_same_and_no_other_repetition_is() -> None:
    [block] = blocks(suite().parts[0], ["a", "b"], repetitions=2)
    seeds = {(slot.workload.name, str(slot.load), slot.repetition): slot.seed for slot in block.slots}
    assert len(set(seeds.values())) == len(seeds)
    assert len({(slot.seed, slot.target) for slot in block.slots}) == len(block.slots)


@pytest.mark.parametrize(
    ("old", "new", "problem"),
    [
        ('kind = "url", name = "a"', 'kind = "url", nme = "a"', r"parts\.0\.targets\.0\.url\.nme: Extra inputs"),
        ('kind = "url", name = "a"', 'kind = "ftp", name = "a"', r"parts\.0\.targets\.0: .*'ftp'"),
        ('name = "a", url', 'name = "b", url', "two targets are called 'b'"),
        ('targets = ["b"]', 'targets = ["c"]', "there is no target 'c'"),
        ("streams = [2]", "", "give streams or rates_per_s"),
        ("streams = [2]", "streams = [0]", "greater than or equal to 1"),
        ('url = "http://127.0.0.1:2"', 'url = "127.0.0.1:2"', "url"),
        ('name = "a"', 'name = "../a"', "pattern"),
        ("title", "= title", "fakes.toml: "),
        (
            '{ kind = "url", name = "a", url = "http://127.0.0.1:1" }',
            '{ kind = "gateway", name = "a", behind = "b" }',
            "'a' stands in front of 'b', which does not precede it",
        ),
    ],
)
def test_a_suite_that_makes_no_sense_is_refused_at_its_place(old: str, new: str, problem: str) -> None:
    with pytest.raises(SuiteError, match=problem):
        suite(SUITE.replace(old, new))


def test_a_workload_that_is_none_is_refused_with_those_there_are() -> None:
    [part] = suite(SUITE.replace('kind = "words"', 'kind = "poems"')).parts
    with pytest.raises(SuiteError, match="there is no kind 'poems'; there are short chat, words"):
        asked.scenario(part.workloads[0], TYPICAL, 60)
    [part] = suite(SUITE.replace('kind = "words"', 'kind = "words"\noptions = { n_words = 3 }')).parts
    with pytest.raises(SuiteError, match="n_words"):
        asked.scenario(part.workloads[0], TYPICAL, 60)


def test_a_suite_is_found_by_its_name_or_its_file(tmp_path: Path) -> None:
    assert read_suite("cpu").deadline_s < 600
    (tmp_path / "mine.toml").write_text(SUITE)
    assert read_suite(str(tmp_path / "mine.toml")).name == "mine"
    with pytest.raises(SuiteError, match=r"no suite 'gpu'; there are cpu, peers, .* ends in \.toml"):
        read_suite("gpu")
    with pytest.raises(SuiteError, match=r"nowhere\.toml"):
        read_suite(str(tmp_path / "nowhere.toml"))


def test_the_documentation_shows_a_suite_that_can_be_run_and_every_kind_there_is() -> None:
    text = (Path(__file__).parents[3] / "docs" / "bench-suites.md").read_text()
    [part] = suite(text.split("```toml\n")[1].split("```")[0]).parts
    for workload in part.workloads:
        asked.scenario(workload, TYPICAL, 60)
    fields = [spec.model_fields["kind"] for spec in get_args(get_args(TargetSpec)[0])]
    kinds = {str(kind) for field in fields for kind in get_args(field.annotation)}
    for kind in (*asked.KINDS, *kinds):
        assert f"`{kind}`" in text
