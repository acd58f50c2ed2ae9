"""In which order the runs of a part are done. Figures are compared within a repetition: machines drift."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from bench.records.record import ClosedLoad, Load, OpenLoad
from bench.suites.suite import Part, WorkloadSpec


@dataclass(frozen=True, slots=True)
class Slot:
    """One run to be done: `people` come under a load, the same in every target's run of that repetition."""

    target: str
    workload: WorkloadSpec
    load: Load
    people: int
    repetition: int

    @property
    def seed(self) -> str:
        """Without the target's name: all targets are asked the same, which no other repetition is asked."""
        return f"{self.workload.name}/{load_name(self.load)}/{self.repetition}"


@dataclass(frozen=True, slots=True)
class Block:
    """Runs one after another, for which these servers run all at the same time."""

    servers: tuple[str, ...]
    slots: tuple[Slot, ...]


def blocks(part: Part, targets: Sequence[str], repetitions: int) -> list[Block]:
    """Together: A B A B … of every workload and load. Else A's whole repetition, then B's, and so on."""
    if part.together:
        in_turns = tuple(
            slot
            for workload in part.workloads
            for load, people in loads(workload)
            for repetition in range(repetitions)
            for slot in _of_targets(targets, workload, load, people, repetition)
        )
        return [Block(tuple(targets), in_turns)] if in_turns else []
    return [
        Block((target,), slots)
        for repetition in range(repetitions)
        for target in targets
        if (slots := tuple(_whole_repetition(part, target, repetition)))
    ]


def loads(workload: WorkloadSpec) -> Iterator[tuple[Load, int]]:
    """Each with its number of people."""
    for streams in workload.streams:
        yield ClosedLoad(streams), streams * workload.requests
    for rate_per_s in workload.rates_per_s:
        yield OpenLoad(rate_per_s), workload.arrivals


def load_name(load: Load) -> str:
    return f"{load.streams} streams" if isinstance(load, ClosedLoad) else f"{load.rate_per_s:g}/s"


def _whole_repetition(part: Part, target: str, repetition: int) -> Iterator[Slot]:
    for workload in part.workloads:
        for load, people in loads(workload):
            yield from _of_targets([target], workload, load, people, repetition)


def _of_targets(
    targets: Sequence[str], workload: WorkloadSpec, load: Load, people: int, repetition: int
) -> Iterator[Slot]:
    for target in targets:
        if not workload.targets or target in workload.targets:
            yield Slot(target, workload, load, people, repetition)
