from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import psutil
import pynvml
import pytest

from bench.measuring import gpus as gpus_module
from bench.measuring import probes as probes_module
from bench.measuring.gpus import Gpus, gpus
from bench.measuring.identity import card_of
from bench.measuring.probes import Look, Observer, Probes, Watch, watching
from tests.bench.clocks import SetClock


@dataclass
class Driver:
    """NVML of a machine with two cards, as far as it is asked. `missing` names what it does not support."""

    used: dict[int, int] = field(default_factory=lambda: {0: 100, 1: 200})
    processes: dict[int, list[Any]] = field(default_factory=lambda: {0: [], 1: []})
    millijoules: list[int] = field(default_factory=list)
    milliwatts: int = 50_000
    missing: tuple[str, ...] = ()
    is_open: int = 0

    def __getattr__(self, name: str) -> Callable[..., Any]:
        if not name.startswith("nvml") or name in self.missing:
            return self._unsupported
        answers: dict[str, Callable[..., Any]] = {
            "nvmlInit": lambda: self._count(1),
            "nvmlShutdown": lambda: self._count(-1),
            "nvmlDeviceGetCount": lambda: 2,
            "nvmlDeviceGetHandleByIndex": lambda index: index,
            "nvmlSystemGetDriverVersion": lambda: "580.1",
            "nvmlSystemGetCudaDriverVersion_v2": lambda: 13010,
            "nvmlDeviceGetName": lambda card: f"Card {card}".encode(),
            "nvmlDeviceGetMemoryInfo": lambda card: SimpleNamespace(total=1000, used=self.used[card]),
            "nvmlDeviceGetComputeRunningProcesses": lambda card: self.processes[card],
            "nvmlDeviceGetPowerUsage": lambda card: self.milliwatts,
            "nvmlDeviceGetEnforcedPowerLimit": lambda card: 170_000,
            "nvmlDeviceGetTotalEnergyConsumption": lambda card: self.millijoules.pop(0) if self.millijoules else 0,
        }
        return answers[name]

    def _count(self, by: int) -> None:
        self.is_open += by

    def _unsupported(self, *_: object) -> None:
        raise pynvml.NVMLError(pynvml.NVML_ERROR_NOT_SUPPORTED)


@pytest.fixture
def driver(monkeypatch: pytest.MonkeyPatch) -> Driver:
    found = Driver()
    stand_in = SimpleNamespace(NVMLError=pynvml.NVMLError)
    names = [name for name in dir(pynvml) if name.startswith("nvml")]
    for name in names:
        setattr(stand_in, name, lambda *given, name=name: getattr(found, name)(*given))
    monkeypatch.setattr(gpus_module, "pynvml", stand_in)
    return found


def process(pid: int, n_bytes: int | None) -> SimpleNamespace:
    return SimpleNamespace(pid=pid, usedGpuMemory=n_bytes)


def test_cards_are_told_with_their_driver(driver: Driver) -> None:
    with gpus() as found:
        cards = found.cards()
    assert [(card.index, card.name, card.memory_bytes) for card in cards] == [(0, "Card 0", 1000), (1, "Card 1", 1000)]
    assert {(card.driver, card.cuda, card.power_limit_w) for card in cards} == {("580.1", "13.1", 170.0)}
    assert driver.is_open == 0


def test_without_a_driver_there_are_no_cards(driver: Driver) -> None:
    driver.missing = ("nvmlInit",)
    with gpus() as found:
        assert (found.cards(), found.bytes_of_all(), found.power_w(), found.energy_j()) == ([], 0, None, None)
    with pytest.raises(LookupError, match="driver is not there"), gpus({0}):
        pass


def test_a_card_that_is_not_there_is_refused_and_the_library_closed(driver: Driver) -> None:
    with pytest.raises(LookupError, match="there is no card 7: the driver knows 2"), gpus({0, 7}):
        pass
    assert driver.is_open == 0


def test_memory_is_the_servers_own_where_the_driver_tells_processes_apart(driver: Driver) -> None:
    driver.processes = {0: [process(os.getpid(), 40), process(1, 60)], 1: [process(os.getpid(), None)]}
    with watching(Probes(os.getpid(), None)) as watch:
        pass
    assert {watch.gpu_bytes(look) for look in watch.looks} == {40}
    assert watch.looks[0].gpu_all_bytes == 300


def test_memory_is_everybodys_where_the_driver_does_not(driver: Driver) -> None:
    driver.processes = {0: [process(1, 60)], 1: []}
    with watching(Probes(os.getpid(), frozenset({1}))) as watch:
        pass
    assert {watch.gpu_bytes(look) for look in watch.looks} == {200}
    assert watch.figures(10)["gpu_peak_bytes"] == 200


def test_energy_is_what_the_cards_counted_over_the_tokens(driver: Driver) -> None:
    driver.millijoules = [1_000_000, 2_000_000, 1_030_000, 2_090_000]
    clock = SetClock()
    with gpus() as cards:
        observer = Observer(None, cards, clock)
        observer.look()
        clock.now_s += 4
        observer.finish()
    found = observer.watch.figures(60)
    assert (found["energy_j"], found["power_w_mean"], found["energy_j_per_output_tok"]) == (120, 30, 2)


def test_energy_is_power_over_time_where_the_card_does_not_count(driver: Driver) -> None:
    driver.missing = ("nvmlDeviceGetTotalEnergyConsumption",)
    clock = SetClock()
    with gpus({0}) as cards:
        observer = Observer(None, cards, clock)
        for watts in (100, 200):
            driver.milliwatts = 1000 * watts
            observer.look()
            clock.now_s += 2
        driver.milliwatts = 0
        observer.finish()
    assert observer.watch.energy_j == 300 + 200


def test_a_card_that_tells_neither_leaves_both_out(driver: Driver) -> None:
    driver.missing = ("nvmlDeviceGetTotalEnergyConsumption", "nvmlDeviceGetPowerUsage")
    with watching(Probes(None, None)) as watch:
        pass
    assert watch.figures(10).keys() == {"gpu_peak_bytes"}


def test_a_card_that_is_lost_gives_no_look(driver: Driver) -> None:
    with gpus({0}) as cards:
        observer = Observer(None, cards, SetClock())
        driver.missing = ("nvmlDeviceGetMemoryInfo",)
        observer.look()
    assert observer.watch.looks == []


def test_memory_of_a_process_tree_is_seen_without_cards() -> None:
    with watching(Probes(os.getpid())) as watch:
        pass
    own = psutil.Process().memory_info().rss
    found = watch.figures(10)
    assert found["rss_peak_bytes"] >= own / 2
    assert found["pss_bytes"] > 0
    assert found.keys() == {"rss_peak_bytes", "pss_bytes"}
    assert watch.looks[0].t_s < watch.looks[-1].t_s


def test_a_server_that_ended_is_seen_as_nothing() -> None:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as server:
        observer = Observer(psutil.Process(server.pid), Gpus(), SetClock())
    observer.look()
    observer.finish()
    assert {look.rss_bytes for look in observer.watch.looks} == {0}


def test_looks_are_at_multiples_of_the_interval_and_missed_ones_are_left_out() -> None:
    clock = SetClock(now_s=0.0)
    looked_s: list[float] = []
    took_s = iter((0.0, 0.6, 0.0, 0.0))

    class Slow:
        def __init__(self) -> None:
            self.clock = clock

        def look(self) -> None:
            looked_s.append(clock.now_s)
            clock.now_s += next(took_s)

    class FourTimes(threading.Event):
        def wait(self, timeout: float | None = None) -> bool:
            clock.now_s += timeout or 0.0
            return len(looked_s) == 4

    probes_module._keep_looking(Slow(), 0.25, FourTimes())  # type: ignore[arg-type]
    assert looked_s == [0.25, 0.5, 1.25, 1.5]


def test_watching_nothing_tells_nothing() -> None:
    with watching(Probes()) as watch:
        pass
    assert watch.figures(10) == {}


def test_peaks_are_the_highest_of_all_looks() -> None:
    looks = [Look(0, 5, 0, 7, None), Look(1, 9, 0, 8, None), Look(2, 6, 0, 3, None)]
    assert Watch(looks).figures(1) == {"rss_peak_bytes": 9, "gpu_peak_bytes": 8}


def test_a_server_computes_on_the_card_that_holds_most_of_it(driver: Driver) -> None:
    assert card_of(os.getpid()) is None
    driver.processes = {0: [process(os.getpid(), 10)], 1: [process(os.getpid(), 90)]}
    card = card_of(os.getpid())
    assert card is not None
    assert card.name == "Card 1"
