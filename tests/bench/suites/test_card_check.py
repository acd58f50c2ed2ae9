from __future__ import annotations

import pytest

from bench.measuring.gpus import Card
from bench.suites.card_check import WrongMachine, check_card
from bench.suites.run import main
from weights.cards import UnknownCard

GIB = 2**30
RTX_3060 = Card(0, "NVIDIA GeForce RTX 3060", 12 * GIB, "580.1", "13.0")
SMALL_5060_TI = Card(0, "NVIDIA GeForce RTX 5060 Ti", 8 * GIB, "580.1", "13.0")


def test_a_suite_runs_where_its_card_is() -> None:
    assert check_card("rtx-3060-12gb", [SMALL_5060_TI, RTX_3060], anyway=False) is None
    assert check_card(None, [], anyway=False) is None


@pytest.mark.parametrize(
    ("here", "told"),
    [
        ([], "this machine has no card that NVML can see"),
        ([RTX_3060], r"this machine has NVIDIA GeForce RTX 3060 \(12 GiB\)"),
        ([SMALL_5060_TI], r"RTX 5060 Ti \(16 GiB\), and this machine has NVIDIA GeForce RTX 5060 Ti \(8 GiB\)"),
    ],
)
def test_a_suite_for_another_card_is_refused_with_what_is_here(here: list[Card], told: str) -> None:
    with pytest.raises(WrongMachine, match=f"{told}.*--anyway"):
        check_card("rtx-5060-ti-16gb", here, anyway=False)


def test_a_suite_that_is_run_anyway_says_so_to_the_reader_of_its_result() -> None:
    note = check_card("rtx-5060-ti-16gb", [], anyway=True)
    assert note is not None
    assert note.startswith("run anyway: the suite is for the NVIDIA GeForce RTX 5060 Ti")


def test_a_card_that_is_in_no_catalogue_is_no_card() -> None:
    with pytest.raises(UnknownCard):
        check_card("rtx-1", [], anyway=True)


def test_a_cards_suite_is_refused_here_before_anything_starts(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bench.suites.run.cards_here", list)
    assert main(["--suite", "rtx-3060"]) == 2
    assert "the suite is for the NVIDIA GeForce RTX 3060 (12 GiB)" in capsys.readouterr().err
