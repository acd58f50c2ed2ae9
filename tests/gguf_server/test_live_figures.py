"""The last minute of a service, by a clock that the test holds."""

from __future__ import annotations

import pytest

from gguf_server.live_figures import Figures, LiveFigures, Writing
from gguf_server.moves import FAILBACK, N_KEPT, Moves, Scope, unambiguous
from gguf_server.request_record import RequestRecord


def ended(**known: object) -> RequestRecord:
    given = {"method": "POST", "service": "demo", "status": 200, "is_stream": True} | known
    record = RequestRecord("req-1", str(given.pop("method")), "/chat", started_at=0.0)
    for name, value in given.items():
        setattr(record, name, value)
    return record


def test_a_service_that_did_nothing_has_no_first_words_to_time() -> None:
    assert LiveFigures().read(1000.0) == Figures(60.0, 0.0, 0.0, None, 0)


def test_tokens_count_in_the_seconds_in_which_they_were_written() -> None:
    figures = LiveFigures(window_s=60.0)
    figures.observe(ended(n_completion_tokens=1200, ttft_s=5.0, elapsed_s=125.0), 200.0)
    assert figures.read(200.0).tokens_per_s == pytest.approx(10.0)
    assert figures.read(230.0).tokens_per_s == pytest.approx(5.0)
    assert figures.read(260.0).tokens_per_s == 0.0


def test_an_answer_that_is_still_being_written_counts_too() -> None:
    figures = LiveFigures(window_s=60.0)
    assert figures.read(100.0, [Writing(70.0, 100.0, 600)]).tokens_per_s == pytest.approx(10.0)
    assert figures.read(100.0, [Writing(0.0, 0.0, 0)]).tokens_per_s == 0.0


def test_percentiles_are_values_that_were_measured() -> None:
    figures = LiveFigures()
    for number in range(1, 21):
        figures.observe(ended(ttft_s=number / 10), 10.0)
    assert figures.read(10.0).ttft_s == (1.0, 1.9)


def test_errors_are_those_of_the_server_and_those_inside_a_stream() -> None:
    figures = LiveFigures()
    for known in ({"status": 500}, {"error": "engine_failed"}, {"status": 429}, {"status": 401}, {"status": 499}, {}):
        figures.observe(ended(**known), 10.0)
    assert figures.read(10.0).n_errors == 2
    assert figures.read(10.0).requests_per_min == 6.0


@pytest.mark.parametrize("known", [{"method": "GET"}, {"service": None}])
def test_who_only_looks_is_not_counted(known: dict[str, object]) -> None:
    figures = LiveFigures()
    figures.observe(ended(**known), 10.0)
    assert figures.read(10.0).requests_per_min == 0.0


def test_what_is_older_than_the_window_is_forgotten() -> None:
    figures = LiveFigures(window_s=60.0)
    figures.observe(ended(ttft_s=1.0, status=500), 10.0)
    assert figures.read(69.9).n_errors == 1
    assert figures.read(70.0) == Figures(60.0, 0.0, 0.0, None, 0)


class Chain:
    """Three engines, and a clock."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.engines = [object(), object(), object()]
        self.moves = Moves(self.engines, lambda: self.now)

    def serves(self, number: int | None, why: str = FAILBACK) -> None:
        self.moves.serving_is(None if number is None else self.engines[number], why)

    def request_moved(self, source: int, target: int | None) -> None:
        self.moves.request_moved(self.engines[source], None if target is None else self.engines[target], "broke_off")

    def recent(self) -> list[tuple[Scope, int, int | None, str, float, int]]:
        return [(m.scope, m.source, m.target, m.reason, m.at, m.n) for m in self.moves.recent]


def test_the_first_engine_to_serve_is_no_move() -> None:
    chain = Chain()
    chain.serves(0)
    chain.serves(0)
    assert chain.recent() == []


def test_an_engine_that_is_lost_is_told_at_once_and_its_successor_when_it_is_there() -> None:
    chain = Chain()
    chain.serves(0)
    chain.serves(None, "crashed")
    assert chain.recent() == [(Scope.SERVICE, 0, None, "crashed", 1000.0, 1)]
    chain.now = 1007.0
    chain.serves(1)
    assert chain.recent() == [(Scope.SERVICE, 0, 1, "crashed", 1000.0, 1)]
    assert dict(chain.moves.totals) == {
        (Scope.SERVICE, 0, None, "crashed"): 1,
        (Scope.SERVICE, 0, 1, "crashed"): 1,
    }


def test_going_back_to_a_better_engine_is_a_move_with_its_reason() -> None:
    chain = Chain()
    chain.serves(1)
    chain.serves(0)
    assert chain.recent() == [(Scope.SERVICE, 1, 0, FAILBACK, 1000.0, 1)]


def test_requests_that_one_crash_moved_are_one_entry_and_all_are_counted() -> None:
    chain = Chain()
    for _ in range(50):
        chain.request_moved(0, 1)
    chain.now = 1061.0
    chain.request_moved(0, 1)
    chain.request_moved(0, None)
    assert [(target, n) for _, _, target, _, _, n in chain.recent()] == [(1, 50), (1, 1), (None, 1)]
    assert chain.moves.totals[(Scope.REQUEST, 0, 1, "broke_off")] == 51


def test_only_the_last_moves_are_kept() -> None:
    chain = Chain()
    for number in range(50):
        chain.serves(number % 2)
    assert len(chain.moves.recent) == N_KEPT


def test_engines_of_one_name_are_told_apart_by_their_devices() -> None:
    names = ["vllm", "llama.cpp", "llama.cpp"]
    assert unambiguous(names, ["cuda", "cuda", "cpu"]) == ("vllm", "llama.cpp (cuda)", "llama.cpp (cpu)")


def test_what_an_engine_died_of_is_told_once_it_is_known() -> None:
    chain = Chain()
    chain.serves(0)
    chain.serves(1, "unhealthy")
    chain.moves.cause_was(chain.engines[0], "crashed")
    chain.moves.cause_was(chain.engines[2], "crashed")
    assert [(source, target, reason) for _, source, target, reason, _, _ in chain.recent()] == [(0, 1, "crashed")]
