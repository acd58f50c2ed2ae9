"""What a measurement leaves behind: one JSON file with a published schema, `docs/bench-result.schema.json`.

A result holds figures and what they were taken on, and nothing that was asked or answered: neither keys nor prompts
nor texts, and of an error its kind alone. The schema's version is in the file; a reader refuses another.

    python -m bench.records.record > docs/bench-result.schema.json
"""

from __future__ import annotations

import json
from bisect import bisect_right
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any, Final, Literal

import orjson
from pydantic import AwareDatetime, ConfigDict, Field, StringConstraints, TypeAdapter, ValidationError, with_config
from pydantic.json_schema import GenerateJsonSchema

from bench.records.redaction import (
    argv_without_secrets,
    table_without_secrets,
    text_without_secrets,
    url_without_secrets,
)

SCHEMA: Final = "gguf-server-bench/1"
MOST_BYTES: Final = 256 * 1024 * 1024
_STRICT: Final = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False, use_attribute_docstrings=True)

Name = Annotated[str, StringConstraints(min_length=1, max_length=200)]
Text = Annotated[str, StringConstraints(max_length=4000)]
Word = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9_]{0,63}$")]
"""A figure's name with its unit, such as `ttft_s_p95`; or an error's kind, such as `http_429`."""
Sha256 = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
Count = Annotated[int, Field(ge=0, le=10**15)]
Number = Annotated[float, Field(ge=-1e15, le=1e15)]
Scalar = bool | int | float | Text


class RecordError(Exception):
    """A file that is no result, or a result that contradicts itself; the message says where."""


@with_config(_STRICT)
@dataclass(frozen=True, slots=True)
class Gpu:
    name: Name
    memory_bytes: Count
    driver: Text | None = None
    power_limit_w: Number | None = None


@with_config(_STRICT)
@dataclass(frozen=True, slots=True)
class Machine:
    system: Text
    """Such as `Linux 6.8.0 x86_64`."""
    cpu: Text
    n_cpus: Count
    memory_bytes: Count
    gpus: tuple[Gpu, ...] = ()
    versions: Mapping[Name, Text] = field(default_factory=dict)
    """Of the measuring program and what it stands on."""


@with_config(_STRICT)
@dataclass(frozen=True, slots=True)
class ModelFile:
    name: Name
    """Without its directory."""
    n_bytes: Count
    sha256: Sha256 | None = None


@with_config(_STRICT)
@dataclass(frozen=True, slots=True)
class TargetRecord:
    name: Name
    url: Text
    engine: Text
    """Such as `llama.cpp`, `llama-server`, `vllm`."""
    engine_version: Text | None = None
    model: Text = ""
    files: tuple[ModelFile, ...] = ()
    card: Text | None = None
    """Name of the card it computes on; None: the processor."""
    card_memory_bytes: Count | None = None
    driver: Text | None = None
    argv: tuple[Text, ...] = ()
    """How it was started; empty where somebody else did."""
    engine_table: Mapping[Word, Scalar] = field(default_factory=dict)
    """What an `[[engines]]` table of the configuration says of such an engine."""


@with_config(_STRICT)
@dataclass(frozen=True, slots=True)
class WorkloadRecord:
    name: Name
    description: Text = ""
    parameters: Mapping[Word, Scalar] = field(default_factory=dict)
    """Lengths, counts, seeds: what decides whether two results may be compared."""


@with_config(_STRICT)
@dataclass(frozen=True, slots=True)
class ClosedLoad:
    """So many clients, each sending its next request after the last."""

    streams: Annotated[int, Field(ge=1, le=10**6)]
    kind: Literal["closed"] = "closed"


@with_config(_STRICT)
@dataclass(frozen=True, slots=True)
class OpenLoad:
    """Requests that arrive on their own, so many a second on average."""

    rate_per_s: Annotated[float, Field(ge=1e-6, le=1e6)]
    kind: Literal["open"] = "open"


Load = Annotated[ClosedLoad | OpenLoad, Field(discriminator="kind")]


@with_config(_STRICT)
@dataclass(frozen=True, slots=True)
class GapHistogram:
    """`counts` has one more than `edges_s`: below the first edge, from each edge to the next, from the last on."""

    edges_s: Annotated[tuple[Number, ...], Field(max_length=1000)]
    counts: Annotated[tuple[Count, ...], Field(max_length=1001)]


@with_config(_STRICT)
@dataclass(frozen=True, slots=True)
class MemorySample:
    """`t_s` is seconds since the run began; None is what could not be told."""

    t_s: Number
    rss_bytes: Count | None = None
    gpu_bytes: Count | None = None


@with_config(_STRICT)
@dataclass(frozen=True, slots=True)
class PowerSample:
    t_s: Number
    watts: Number


@with_config(_STRICT)
@dataclass(frozen=True, slots=True)
class Predicted:
    value: Number
    relative_error: Annotated[float, Field(ge=0)] | None = None
    """0.15: the plan says that the measured figure lies within 15 % of the value."""


@with_config(_STRICT)
@dataclass(frozen=True, slots=True)
class Run:
    """One repetition of one workload under one load with one target. A figure that is not there was not measured."""

    target: Name
    workload: Name
    load: Load
    repetition: Count
    figures: Mapping[Word, Number]
    error_kinds: Mapping[Word, Count] = field(default_factory=dict)
    """How many requests failed, by kind, such as `http_429` or `timeout`."""
    gaps: GapHistogram | None = None
    """Between two chunks with text of one request."""
    memory: tuple[MemorySample, ...] = ()
    power: tuple[PowerSample, ...] = ()
    predicted: Mapping[Word, Predicted] = field(default_factory=dict)
    """By the name of the figure that it predicts."""


@with_config(_STRICT)
@dataclass(frozen=True, slots=True)
class Report:
    suite: Name
    started_at: AwareDatetime
    machine: Machine
    targets: tuple[TargetRecord, ...]
    workloads: tuple[WorkloadRecord, ...]
    runs: tuple[Run, ...]
    notes: tuple[Text, ...] = ()
    """What a reader must know, such as what was skipped and why."""
    schema: Literal["gguf-server-bench/1"] = SCHEMA


_REPORT: Final = TypeAdapter(Report)
GAP_EDGES_S: Final = tuple(round(10 ** (-4 + step / 20), 9) for step in range(6 * 20 + 1))
"""0.1 ms to 100 s, twenty to a decade: the same everywhere, so that histograms can be added."""


def gap_histogram(gaps_s: Iterable[float]) -> GapHistogram:
    """Over the part of `GAP_EDGES_S` that has gaps in it."""
    counts = [0] * (len(GAP_EDGES_S) + 1)
    for gap_s in gaps_s:
        counts[bisect_right(GAP_EDGES_S, gap_s)] += 1
    used = [index for index, count in enumerate(counts) if count]
    first = max(min(used, default=1), 1)
    last = min(max(used, default=1), len(GAP_EDGES_S) - 1)
    below, above = sum(counts[:first]), sum(counts[last + 1 :])
    return GapHistogram(GAP_EDGES_S[first - 1 : last + 1], (below, *counts[first : last + 1], above))


def read(path: Path) -> Report:
    """Raises `RecordError` for what is no result of this version, `OSError` where it cannot be read."""
    if path.stat().st_size > MOST_BYTES:
        raise RecordError(f"{path}: larger than {MOST_BYTES >> 20} MiB, which no result is")
    try:
        return parse(path.read_bytes())
    except RecordError as wrong:
        raise RecordError(f"{path}: {wrong}") from wrong


def parse(data: bytes) -> Report:
    """Raises `RecordError`."""
    try:
        found = orjson.loads(data)
    except orjson.JSONDecodeError as exc:
        raise RecordError(f"not JSON: {exc}") from exc
    schema = found.get("schema") if isinstance(found, dict) else None
    if schema != SCHEMA:
        told = repr(schema)[:60] if schema is not None else "missing"
        raise RecordError(f"schema is {told}, not {SCHEMA!r}: measure again, or read it with its own version")
    try:
        report = _REPORT.validate_json(data)
    except ValidationError as exc:
        raise RecordError("; ".join(_problems(exc))) from exc
    _check(report)
    return report


def write(report: Report, path: Path) -> None:
    """Whole or not at all. Keys in command lines and addresses are left out. Raises `RecordError`, `OSError`."""
    data = dump(report)
    partial = path.with_name(f".{path.name}.partial")
    try:
        partial.write_bytes(data)
        partial.replace(path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise


def dump(report: Report) -> bytes:
    """What `write` writes: it can be read again, or a `RecordError` says why not."""
    published = replace(
        report,
        targets=tuple(_published(target) for target in report.targets),
        notes=tuple(text_without_secrets(note) for note in report.notes),
    )
    data = _REPORT.dump_json(published, exclude_none=True)
    parse(data)
    return data + b"\n"


def json_schema() -> dict[str, Any]:
    """Of the file, in JSON Schema 2020-12: what `python -m bench.records.record` prints."""
    schema = _REPORT.json_schema(mode="validation")
    for part in (schema, *schema["$defs"].values()):
        fixed = [name for name, of_field in part["properties"].items() if "const" in of_field]
        part["required"] = [*part["required"], *fixed]  # a default of the program's, but in every file
    return {
        "$schema": GenerateJsonSchema.schema_dialect,
        **schema,
        "title": "Result of gguf-server bench",
        "description": "Figures of one measurement and what it was taken on.",
    }


def _published(target: TargetRecord) -> TargetRecord:
    return replace(
        target,
        url=url_without_secrets(target.url),
        model=text_without_secrets(target.model),
        argv=argv_without_secrets(target.argv),
        engine_table=table_without_secrets(target.engine_table),
    )


def _problems(exc: ValidationError) -> list[str]:
    """The first three; what the file says there is not repeated."""
    errors = exc.errors(include_input=False)[:3]
    return [f"{ascii('.'.join(map(str, error['loc'])))[1:121]}: {error['msg']}" for error in errors]


def _check(report: Report) -> None:
    targets = [target.name for target in report.targets]
    workloads = [workload.name for workload in report.workloads]
    for kind, names in (("target", targets), ("workload", workloads)):
        if len(set(names)) != len(names):
            raise RecordError(f"two {kind}s have the same name")
    seen = set()
    for index, run in enumerate(report.runs):
        if (of_run := (run.target, run.workload, run.load, run.repetition)) in seen:
            raise RecordError(f"runs.{index}: this repetition is there twice")
        seen.add(of_run)
        if run.target not in targets or run.workload not in workloads:
            raise RecordError(f"runs.{index}: its target or its workload is not in the lists of them")
        if run.gaps is not None:
            _check_gaps(run.gaps, f"runs.{index}.gaps")


def _check_gaps(gaps: GapHistogram, place: str) -> None:
    if len(gaps.counts) != len(gaps.edges_s) + 1:
        raise RecordError(f"{place}: counts must be one more than edges_s")
    if list(gaps.edges_s) != sorted(set(gaps.edges_s)):
        raise RecordError(f"{place}.edges_s: not in ascending order")


if __name__ == "__main__":
    print(json.dumps(json_schema(), indent=1, ensure_ascii=False))
