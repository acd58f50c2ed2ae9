"""What the workloads of the suite ask."""

from __future__ import annotations

import base64
import io
from collections.abc import Awaitable, Callable
from typing import Any

import orjson
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from hypothesis import given
from hypothesis import strategies as st
from jsonschema import Draft202012Validator
from PIL import Image

from bench.measuring.load import Target
from bench.workloads import clinic, clinic_records, visit
from bench.workloads.clinic import LANGUAGES, Language
from bench.workloads.lengths import TYPICAL, Density, NoCount, density_of, record
from bench.workloads.scenario import Scenario, Script
from bench.workloads.scenarios import (
    conversation,
    long_record,
    pictures,
    shared_system,
    short_chat,
    structured,
    thinking,
    words,
)
from tests.bench.fake_server import FakeServer

Serve = Callable[[web.Application], Awaitable[TestServer]]
PLAIN = Density({"en": 0.25, "vi": 0.5, "zh": 1.0}, 40)
OPENING_ALIKE = (words(), pictures())
OPENING_APART = (
    short_chat(),
    long_record(800, density=PLAIN),
    shared_system(400, density=PLAIN),
    conversation(),
    thinking(),
    structured(),
)


def first(script: Script) -> str:
    """The text of the first turn; of pictures their URLs too."""
    return script.says[0] if isinstance(script.says[0], str) else orjson.dumps(script.says[0]).decode()


@pytest.mark.parametrize("scenario", [*OPENING_ALIKE, *OPENING_APART], ids=lambda scenario: scenario.name)
def test_what_people_say_depends_on_seed_and_number_alone_and_no_two_say_the_same(scenario: Scenario) -> None:
    said = [first(scenario.script("a", number)) for number in range(9)]
    assert said == [first(scenario.script("a", number)) for number in range(9)]
    assert len(set(said) | {first(scenario.script("b", number)) for number in range(9)}) == 18


@pytest.mark.parametrize("scenario", OPENING_APART, ids=lambda scenario: scenario.name)
def test_prompts_have_nothing_in_common_from_their_first_words_on(scenario: Scenario) -> None:
    assert len({first(scenario.script("a", number)).split()[0] for number in range(30)}) == 30


def test_every_language_has_as_much_to_say() -> None:
    for texts in (clinic.QUESTIONS, clinic.CONVERSATIONS, clinic.GUIDES):
        assert {len(texts[language]) for language in LANGUAGES} == {len(texts["en"])}
    for by_language in (clinic_records.TASKS, visit.TASKS):
        assert by_language.keys() == set(LANGUAGES)


def n_tokens(text: str, language: Language) -> float:
    return len(text) * PLAIN.tokens_per_char[language]


@given(st.sampled_from(LANGUAGES), st.integers(300, 20_000))
def test_a_record_is_as_long_as_asked_and_never_longer(language: Language, n_prompt: int) -> None:
    text = record(language, "a", n_prompt, PLAIN).removesuffix(clinic_records.TASKS[language])
    assert 0.95 * n_prompt - PLAIN.n_around - 2 <= n_tokens(text, language) <= n_prompt - PLAIN.n_around


def test_a_record_that_has_no_room_is_its_task_alone() -> None:
    assert record("en", "a", 10, PLAIN).strip() == clinic_records.TASKS["en"]


def test_the_system_prompt_is_everybodys_and_has_all_languages() -> None:
    scenario = shared_system(2000, density=PLAIN)
    systems = {scenario.script(seed, number).system for seed in "ab" for number in range(4)}
    [system] = systems
    assert all(clinic.GUIDES[language][0] in system for language in LANGUAGES)
    of_language = {rule: language for language in LANGUAGES for rule in clinic.GUIDES[language]}
    *whole, _ = system.split("\n")
    assert 1850 <= sum(n_tokens(rule, of_language[rule]) for rule in whole) <= 2000


def test_a_conversation_has_as_many_turns_as_asked() -> None:
    assert len(conversation(turns=23).script("a", 1).says) == 23


def test_pictures_are_pngs_of_the_size_asked_for() -> None:
    scenario = pictures(width=64, height=48, per_question=2)
    [parts] = scenario.script("a", 0).says
    assert isinstance(parts, list)
    urls: list[Any] = [part["image_url"] for part in parts if part["type"] == "image_url"]
    head, _, data = urls[0]["url"].partition(",")
    assert (head, len(urls), len({url["url"] for url in urls})) == ("data:image/png;base64", 2, 2)
    assert Image.open(io.BytesIO(base64.b64decode(data))).size == (64, 48)


def test_languages_can_be_chosen() -> None:
    scenario = short_chat(languages="vi")
    assert all(any(first(scenario.script("a", n)).endswith(q) for q in clinic.QUESTIONS["vi"]) for n in range(6))
    with pytest.raises(ValueError, match="there is no language 'fr': en,vi,zh"):
        short_chat(languages="vi,fr")


def test_a_workload_is_recorded_with_what_decides_its_figures() -> None:
    found = long_record(800, max_tokens=5, density=PLAIN).record(seed="a")
    assert found.name == "record_800"
    assert found.parameters == {
        "max_tokens": 5, "ends_freely": False, "is_chat": True, "n_prompt": 800, "languages": "en,vi,zh", "seed": "a",
    }  # fmt: skip


def test_the_visits_schema_is_a_schema_and_an_answer_can_keep_it_in_its_tokens() -> None:
    Draft202012Validator.check_schema(visit.SCHEMA)
    longest = {
        "case": 999999999,
        "urgency": "emergency",
        "complaint": "x" * 60,
        "findings": [{"name": "temperature", "value": 400, "is_normal": False}] * 3,
        "next_step": "x" * 60,
    }
    Draft202012Validator(visit.SCHEMA).validate(longest)
    assert len(orjson.dumps(longest)) < structured().max_tokens


class Counting(FakeServer):
    """Tells a prompt's tokens: ten, and one for every two characters."""

    def _events(self, max_tokens: int, *, is_chat: bool) -> list[bytes | None]:
        n_prompt = 10 + len(self.bodies[-1]["messages"][-1]["content"]) // 2
        *events, _ = super()._events(max_tokens, is_chat=is_chat)
        usage = {"prompt_tokens": n_prompt, "completion_tokens": max_tokens}
        return [*events[:-1], orjson.dumps({"choices": [], "usage": usage}), b"[DONE]"]


async def test_density_is_what_the_server_counts(aiohttp_server: Serve) -> None:
    target = Target("fake", str((await aiohttp_server(Counting().app())).make_url("/")), "tiny")
    found = await density_of(target)
    assert all(found.tokens_per_char[language] == pytest.approx(0.5, abs=0.01) for language in LANGUAGES)
    assert found.n_around == 10 + len(clinic_records.TASKS["en"]) // 2


@pytest.mark.parametrize("fake", [FakeServer(says_usage=False), FakeServer(status=500)])
async def test_a_server_that_does_not_count_is_told_of(aiohttp_server: Serve, fake: FakeServer) -> None:
    target = Target("fake", str((await aiohttp_server(fake.app())).make_url("/")), "tiny")
    with pytest.raises(NoCount, match="fake did not count a prompt: "):
        await density_of(target)


def test_typical_density_knows_every_language() -> None:
    assert TYPICAL.tokens_per_char.keys() == set(LANGUAGES)
