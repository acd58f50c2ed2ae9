"""How an answer of the worker differs from vLLM's, and which differences are meant."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

from tests.parity.observe import Observation
from tests.parity.shape import ABSENT


@dataclass(frozen=True, slots=True)
class Difference:
    """`where` is `status`, a path of the shape, or the name of a fact, of one case."""

    case: str
    where: str
    vllm: Any
    worker: Any

    def __str__(self) -> str:
        return f"{self.case}: {self.where}: vLLM {self.vllm}, worker {self.worker}"


@dataclass(frozen=True, slots=True)
class Declared:
    """A difference that is meant. The patterns are those of file names, with `[]` as it stands; several by `,`."""

    where: str
    vllm: str
    worker: str
    reason: str
    cases: str = "*"

    def covers(self, found: Difference) -> bool:
        return all(
            any(_matches(value, pattern) for pattern in patterns.split(", "))
            for value, patterns in (
                (found.case, self.cases),
                (found.where, self.where),
                (str(found.vllm), self.vllm),
                (str(found.worker), self.worker),
            )
        )


def _matches(value: str, pattern: str) -> bool:
    return fnmatchcase(value, pattern.replace("[", "[[]"))


def differences(case: str, vllm: Observation, worker: Observation) -> list[Difference]:
    """Of the facts only those that vLLM's answer has. Where the status differs, nothing else is looked at."""
    if vllm.status != worker.status:
        return [Difference(case, "status", vllm.status, worker.status)]
    found = [
        Difference(case, name, value, worker.facts.get(name))
        for name, value in vllm.facts.items()
        if worker.facts.get(name) != value
    ]
    paths = sorted(vllm.shape.keys() | worker.shape.keys())
    return found + [
        Difference(case, path, vllm.shape.get(path, ABSENT), worker.shape.get(path, ABSENT))
        for path in paths
        if vllm.shape.get(path, ABSENT) != worker.shape.get(path, ABSENT) and not _is_inside_missing(path, vllm, worker)
    ]


def _is_inside_missing(path: str, *sides: Observation) -> bool:
    """Where one side has nothing above this path, that is the difference."""
    above = path[:-2] if path.endswith("[]") else path.rpartition(".")[0]
    return bool(above) and any(above not in side.shape for side in sides)


def undeclared(found: Iterable[Difference], declared: Iterable[Declared]) -> list[Difference]:
    table = list(declared)
    return [each for each in found if not any(row.covers(each) for row in table)]


def unneeded(found: Mapping[str, list[Difference]], declared: Iterable[Declared]) -> list[Declared]:
    """What is declared and does not differ any more."""
    everything = [each for of_case in found.values() for each in of_case]
    return [row for row in declared if not any(row.covers(each) for each in everything)]
