"""The worker answers as vLLM does, but for what `declared` says."""

from __future__ import annotations

import pytest

from tests.parity.declared import DECLARED
from tests.parity.differences import differences, undeclared, unneeded
from tests.parity.observe import Observation
from tests.parity.record import recorded
from tests.parity.render import PAGE, page
from tests.parity.suite import SUITE

VLLM = recorded()


@pytest.mark.parametrize("name", [case.name for case in SUITE])
def test_the_worker_answers_as_vllm_does(name: str, answers: dict[str, Observation]) -> None:
    found = undeclared(differences(name, VLLM[name], answers[name]), DECLARED)
    assert not found, "\n".join(map(str, found))


def test_every_declared_difference_is_one(answers: dict[str, Observation]) -> None:
    assert not unneeded({name: differences(name, VLLM[name], answers[name]) for name in VLLM}, DECLARED)


def test_every_request_has_a_name_of_its_own_and_is_recorded() -> None:
    assert [case.name for case in SUITE] == list(VLLM)


def test_the_page_is_made_of_the_declared_differences() -> None:
    assert PAGE.read_text(encoding="utf-8") == page(), "python -m tests.parity.render writes it"
