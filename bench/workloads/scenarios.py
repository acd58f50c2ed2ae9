"""The workloads of the suite: what people ask, as scenarios.

Lengths in tokens are near, the servers' counts exact. `languages` are names with commas between them, such as `en,vi`:
people speak them in turn. Raised is `ValueError` for a language that is none.
"""

from __future__ import annotations

import random
from itertools import cycle, islice
from typing import Final

from bench.workloads import clinic, images
from bench.workloads.clinic import EVERY, LANGUAGES, Language, chosen
from bench.workloads.lengths import TYPICAL, Density, record, text_of
from bench.workloads.prompts import prompt
from bench.workloads.scenario import Scenario, Script
from bench.workloads.visit import SCHEMA, TASKS, why_invalid

_LOOK: Final = {
    "en": "What does this chart show? Describe how the curve goes, day by day.",
    "vi": "Biểu đồ này cho thấy điều gì? Hãy mô tả đường biểu diễn theo từng ngày.",
    "zh": "这张图表显示了什么？请按天描述曲线的变化。",
}


def short_chat(max_tokens: int = 128, languages: str = EVERY) -> Scenario:
    spoken = chosen(languages)

    def script(seed: str, number: int) -> Script:
        language = spoken[number % len(spoken)]
        return Script((_question(seed, number, language),))

    return Scenario(
        "short_chat",
        script,
        "One short question in each of the languages in turn",
        max_tokens,
        parameters={"languages": languages},
    )


def words(n_prompt: int = 119, max_tokens: int = 128, *, is_chat: bool = False) -> Scenario:
    """English words without sense, of which nearly each is one token: comparable with other clients' random prompts."""
    return Scenario(
        f"words_{n_prompt}",
        lambda seed, number: Script((prompt(seed, number, n_prompt),)),
        "Words from a fixed list, no beginning in common",
        max_tokens,
        parameters={"n_prompt": n_prompt},
        is_chat=is_chat,
    )


def long_record(
    n_prompt: int, max_tokens: int = 128, languages: str = EVERY, *, density: Density = TYPICAL
) -> Scenario:
    """A record of `n_prompt` tokens with its task, never more than that as far as `density` is right.

    The context has to hold `n_prompt + max_tokens`.
    """
    spoken = chosen(languages)

    def script(seed: str, number: int) -> Script:
        language = spoken[number % len(spoken)]
        return Script((record(language, f"{seed}/{number}", n_prompt, density),))

    return Scenario(
        f"record_{n_prompt}",
        script,
        "A patient's record is to be summed up",
        max_tokens,
        parameters={"n_prompt": n_prompt, "languages": languages},
    )


def shared_system(
    n_shared: int, max_tokens: int = 32, languages: str = EVERY, *, density: Density = TYPICAL
) -> Scenario:
    """The system prompt is the same for everybody and every seed."""
    spoken = chosen(languages)
    n_rules = len(clinic.GUIDES["en"])
    rules = [(language, clinic.GUIDES[language][number]) for number in range(n_rules) for language in spoken]
    system = text_of(cycle(rules), n_shared, density)

    def script(seed: str, number: int) -> Script:
        return Script((_question(seed, number, spoken[number % len(spoken)]),), system)

    return Scenario(
        f"shared_system_{n_shared}",
        script,
        "Short questions under one long system prompt",
        max_tokens,
        parameters={"n_shared": n_shared, "languages": languages},
    )


def conversation(turns: int = 10, max_tokens: int = 64, languages: str = EVERY) -> Scenario:
    """Histories differ between people and seeds from their first words on."""
    spoken = chosen(languages)

    def script(seed: str, number: int) -> Script:
        says = clinic.CONVERSATIONS[spoken[number % len(spoken)]]
        first, *later = islice(cycle(says), turns)
        return Script((f"{_case(seed, number)} {first}", *later))

    return Scenario(
        "conversation",
        script,
        "A patient asks and asks again; each turn has the whole history",
        max_tokens,
        parameters={"turns": turns, "languages": languages},
    )


def thinking(is_on: bool = True, max_tokens: int = 512, languages: str = EVERY) -> Scenario:
    """Answers end where they end: whether a model thinks decides how long they are."""
    base = short_chat(max_tokens, languages)
    return Scenario(
        f"thinking_{'on' if is_on else 'off'}",
        base.script,
        f"Short questions, thinking switched {'on' if is_on else 'off'} by chat_template_kwargs",
        max_tokens,
        ends_freely=True,
        fields={"chat_template_kwargs": {"enable_thinking": is_on}},
        parameters={"is_on": is_on, "languages": languages},
    )


def pictures(
    width: int = 640,
    height: int = 480,
    per_question: int = 1,
    max_tokens: int = 64,
    languages: str = EVERY,
) -> Scenario:
    """No picture is sent twice, so that no cache of encoded pictures can help."""
    spoken = chosen(languages)

    def script(seed: str, number: int) -> Script:
        question: list[dict[str, object]] = []
        for index in range(per_question):
            url = images.data_url(f"{seed}/{number}/{index}", width=width, height=height)
            question.append({"type": "image_url", "image_url": {"url": url}})
        question.append({"type": "text", "text": _LOOK[spoken[number % len(spoken)]]})
        return Script((question,))

    return Scenario(
        "images",
        script,
        "Charts as PNG data URLs are to be described",
        max_tokens,
        parameters={"width_px": width, "height_px": height, "images": per_question, "languages": languages},
    )


def structured(max_tokens: int = 400, languages: str = EVERY) -> Scenario:
    """Each answer has to end by itself and to be valid under the schema, or it is an error."""
    spoken = chosen(languages)

    def script(seed: str, number: int) -> Script:
        language = spoken[number % len(spoken)]
        return Script((f"{_case(seed, number)} {TASKS[language]}",))

    schema = {"name": "visit", "strict": True, "schema": SCHEMA}
    return Scenario(
        "structured",
        script,
        "A visit's note as JSON under a schema; answers are validated",
        max_tokens,
        ends_freely=True,
        fields={"response_format": {"type": "json_schema", "json_schema": schema}},
        check=why_invalid,
        parameters={"languages": languages},
    )


def _case(seed: str, number: int) -> str:
    """Opens a prompt with what no other has, so that no cache knows how it begins."""
    return f"[{random.Random(f'{seed}/{number}').randrange(10**8, 10**9)}]"


def _question(seed: str, number: int, language: Language) -> str:
    questions = clinic.QUESTIONS[language]
    return f"{_case(seed, number)} {questions[number // len(LANGUAGES) % len(questions)]}"
