"""A suite from its first server to its last run. Whatever happens to a server is a row, not the end."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import aiohttp
import psutil

from bench.measuring.drive import drive, people_of
from bench.measuring.gpus import Card
from bench.measuring.load import first_model
from bench.measuring.machine import card_of, describe
from bench.measuring.measure import measure
from bench.measuring.probes import Probes
from bench.records.record import ClosedLoad, Machine, Report, Run, TargetRecord, WorkloadRecord
from bench.servers.crew import Crew, Failures
from bench.servers.recipes import NotHere, Place, Recipe, prepare
from bench.suites import asked
from bench.suites.display import Display
from bench.suites.predicted import RSS_LOADED, predicted
from bench.suites.schedule import Block, Slot, blocks
from bench.suites.suite import Part, Started, Suite, TargetSpec
from bench.workloads.lengths import TYPICAL, Density, NoCount, density_of
from bench.workloads.scenarios import words
from weights.refs import WeightsMissing, resolve

NOT_READY: Final = "server_not_ready"
DIED: Final = "server_died"
_WRONG_ANSWER: Final = "wrong_answer"
_WARM_UP_LIMIT_S: Final = 300.0
_NOTE_LIMIT: Final = 2000


@dataclass(slots=True)
class Results:
    """What there is so far: `report` can be written at any time."""

    suite: str
    machine: Machine
    started_at: datetime = field(default_factory=lambda: datetime.now(UTC))
    targets: dict[str, TargetRecord] = field(default_factory=dict)
    workloads: dict[str, WorkloadRecord] = field(default_factory=dict)
    runs: list[Run] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def report(self) -> Report:
        return Report(
            suite=self.suite,
            started_at=self.started_at,
            machine=self.machine,
            targets=tuple(self.targets.values()),
            workloads=tuple(self.workloads.values()),
            runs=tuple(self.runs),
            notes=tuple(self.notes),
        )


@dataclass(frozen=True, slots=True)
class Setup:
    """What all parts of a run need. `seed` is in every prompt; `save` is called after each run."""

    suite: Suite
    place: Place
    seed: str
    results: Results
    display: Display
    save: Callable[[], None]

    def note(self, text: str) -> None:
        """For the reader of the result; said once."""
        if (text := text[:_NOTE_LIMIT]) not in self.results.notes:
            self.results.notes.append(text)
            self.display.note(text)


async def run_suite(setup: Setup) -> None:
    """Results grow as it goes on, and are there however it ends. Raises `SuiteError` for a workload that is none."""
    suite = setup.suite
    for part in suite.parts:
        for spec in part.workloads:
            scenario = asked.scenario(spec, TYPICAL, suite.request_timeout_s)
            setup.results.workloads[spec.name] = asked.record(spec, scenario)
    n_runs = {part.name: _n_runs(blocks(part, _names(part), suite.repetitions)) for part in suite.parts}
    deadline = asyncio.timeout(suite.deadline_s)
    try:
        async with deadline:
            for part in suite.parts:
                measuring = _PartRun(setup, part)
                to_do = await measuring.prepare()
                n_runs[part.name] = _n_runs(to_do)
                setup.display.plan(sum(n_runs.values()))
                await measuring.run(to_do)
    except TimeoutError:
        if not deadline.expired():
            raise
        n_done = len(setup.results.runs)
        setup.note(f"ended at its deadline of {suite.deadline_s:g} s, after {n_done} of {sum(n_runs.values())} runs")


def _names(part: Part) -> list[str]:
    return [target.name for target in part.targets]


def _n_runs(to_do: Sequence[Block]) -> int:
    return sum(len(block.slots) for block in to_do)


class _PartRun:
    """One part, once."""

    def __init__(self, setup: Setup, part: Part) -> None:
        self._setup = setup
        self._part = part
        self._recipes: dict[str, Recipe] = {}
        self._failures = Failures()
        self._density: Density | None = None
        self._rss_loaded: dict[str, int | None] = {}
        self._cards: dict[str, Card | None] = {}

    async def prepare(self) -> list[Block]:
        """What is to be done with the targets that are here."""
        model = await asyncio.to_thread(self._model)
        names = [spec.name for spec in self._part.targets if await self._prepare(spec, model)]
        return blocks(self._part, names, self._setup.suite.repetitions)

    async def run(self, to_do: Sequence[Block]) -> None:
        for block in to_do:
            async with Crew(self._recipes, self._failures, self._setup.place.folder) as crew:
                for name in block.servers:
                    await self._bring_up(crew, name)
                for slot in block.slots:
                    self._setup.results.runs.append(await self._run(crew, slot))
                    await asyncio.to_thread(self._setup.save)

    def _model(self) -> Path | None:
        try:
            return resolve(self._part.model) if self._part.model else None
        except WeightsMissing as error:
            self._setup.note(f"{self._part.name}: {error}")
            return None

    async def _prepare(self, spec: TargetSpec, model: Path | None) -> bool:
        """Whether it has rows."""
        try:
            recipe = await asyncio.to_thread(prepare, self._part, spec, self._setup.place, model)
        except NotHere as error:
            if isinstance(spec, Started) and spec.optional:
                self._setup.note(f"{spec.name} is left out: {error}")
                return False
            self._failures.give_up(spec.name, f"{spec.name} is not here: {error}")
            self._setup.results.targets[spec.name] = TargetRecord(spec.name, "", spec.kind)
            return True
        self._recipes[spec.name] = recipe
        self._setup.results.targets[spec.name] = TargetRecord(spec.name, recipe.target.url, recipe.engine or spec.kind)
        return True

    async def _bring_up(self, crew: Crew, name: str) -> bool:
        """Whether it can be measured; why not is noted."""
        try:
            if crew.has_to_start(name):
                self._setup.display.doing(f"starting {name}")
            if await crew.bring_up(name) or not self._setup.results.targets[name].model:
                await self._get_to_know(crew, name)
        except RuntimeError as error:
            self._setup.note(str(error))
            return False
        return True

    async def _get_to_know(self, crew: Crew, name: str) -> None:
        """After each start. Raises `RuntimeError` where it does not answer."""
        recipe = self._recipes[name]
        try:
            if not recipe.target.model:
                recipe = replace(recipe, target=replace(recipe.target, model=await first_model(recipe.target)))
        except (aiohttp.ClientError, TimeoutError, ValueError, LookupError, TypeError) as error:
            raise self._useless(name, f"does not tell its model: {type(error).__name__}") from error
        scenario = replace(words(8, 16, is_chat=True), timeout_s=_WARM_UP_LIMIT_S)
        seed = f"{self._setup.seed}/warm-up"
        [person] = people = people_of(scenario, seed, 1)
        await drive(recipe.target, scenario, ClosedLoad(1), people, seed=seed)
        problem = person.turns[-1].error_kind
        if problem and problem != _WRONG_ANSWER:  # what it says does not matter here
            raise self._useless(name, f"failed its warm-up: {problem}")
        self._recipes[name] = recipe
        self._rss_loaded[name] = await crew.rss_bytes(name)
        pid = await crew.process_of(name)
        self._cards[name] = card = await asyncio.to_thread(card_of, recipe, pid)
        try:
            self._setup.results.targets[name] = await describe(recipe, pid, card)
        except OSError as error:
            raise self._useless(name, f"has weights that cannot be read: {error}") from error

    def _useless(self, name: str, problem: str) -> RuntimeError:
        self._failures.add(name, f"{name} {problem}")
        return RuntimeError(f"{name} {problem}")

    async def _run(self, crew: Crew, slot: Slot) -> Run:
        if not await self._bring_up(crew, slot.target):
            run = _without_figures(slot, NOT_READY)
        else:
            run = await self._measure(crew, slot)
            if run.error_kinds and (death := await crew.death(slot.target)) is not None:
                self._setup.note(f"{death} (during {slot.workload.name})")
                run = replace(run, error_kinds={**run.error_kinds, DIED: 1})
        self._setup.display.end(slot, run)
        return run

    async def _measure(self, crew: Crew, slot: Slot) -> Run:
        recipe = self._recipes[slot.target]
        density = await self._density_for(slot, recipe)
        card = self._cards[slot.target]
        cards = frozenset() if card is None else frozenset({card.index})
        plan = await asyncio.to_thread(predicted, recipe, slot, card, self._setup.place.threads)
        self._setup.display.begin(slot)
        try:
            run = await measure(
                recipe.target,
                asked.scenario(slot.workload, density, self._setup.suite.request_timeout_s),
                slot.load,
                Probes(await crew.process_of(slot.target), cards),
                people=slot.people,
                seed=f"{self._setup.seed}/{slot.seed}",
                repetition=slot.repetition,
                predicted=plan,
                on_answer=lambda _request: self._setup.display.answered(),
            )
        except psutil.NoSuchProcess:
            return _without_figures(slot, DIED)
        loaded = self._rss_loaded[slot.target]
        return run if loaded is None else replace(run, figures={**run.figures, RSS_LOADED: float(loaded)})

    async def _density_for(self, slot: Slot, recipe: Recipe) -> Density:
        """Tokens per character, counted once by the first target that is asked for a length: all get the same texts."""
        if not asked.is_measured(slot.workload):
            return TYPICAL
        if self._density is None:
            try:
                self._density = await density_of(recipe.target)
            except NoCount as error:
                self._setup.note(f"lengths are those of a typical tokenizer: {error}")
                self._density = TYPICAL
        return self._density


def _without_figures(slot: Slot, kind: str) -> Run:
    return Run(slot.target, slot.workload.name, slot.load, slot.repetition, {}, {kind: 1})
