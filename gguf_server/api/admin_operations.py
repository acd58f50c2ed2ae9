"""What the routes of the admin API do."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from pydantic import BaseModel, Field

from backends.openai_schema import OpenModel
from gguf_server.api.answers import Answered
from gguf_server.api.operations import Answer, Operation, Tag
from gguf_server.errors import Conflict, NotFound

_ADMINISTRATION: Final = Tag(
    "Administration",
    "For admin keys alone. As long as there is none, there is nothing at these paths. No answer is cut by what is done "
    "here.",
)
_SERVICE: Final = {"service": "The service's name in the configuration."}
_ENGINE: Final = {**_SERVICE, "engine": "The engine's name, or `0:NAME` where several have the same."}


class EngineChoice(OpenModel):
    """`engine`: a name, or `0:NAME` where several have the same; null is the order of the configuration."""

    engine: str | None


class AdminEngine(Answered):
    id: str
    name: str
    kind: str
    device: str
    phase: str
    held: bool = Field(description="Whether it gets no new requests, since an operator wants it away or anew.")
    requests: int
    starts: int
    load_s: float | None
    last_failure: str | None


class AdminService(Answered):
    model: str
    paths: list[str]
    port: int | None
    ready: bool
    paused: bool
    in_flight: int
    running: int
    waiting: int
    engine: str | None
    pinned: str | None = Field(description="The engine that an operator chose.")
    engines: list[AdminEngine]


class AdminServices(Answered):
    services: dict[str, AdminService]


class ReloadOutcome(Answered):
    at: str
    asked_by: str
    ok: bool
    problems: list[str]
    changes: list[str]
    needs_restart: list[str] = Field(description="Settings that a running server cannot take on.")


class AdminOverview(AdminServices):
    leaving: dict[str, int] = Field(description="Services that are gone, and the answers that they still owe.")
    last_reload: ReloadOutcome | None


class WishGranted(Answered):
    service: str
    engine: str | None
    action: str
    what_happens: str


def _operation(
    name: str,
    summary: str,
    model: type[BaseModel],
    *,
    description: str = "",
    body: type[BaseModel] | None = None,
    examples: Mapping[str, Any] | None = None,
    parameters: Mapping[str, str] | None = None,
    status: int = 200,
) -> Operation:
    return Operation(
        id=name,
        summary=summary,
        description=description,
        answers={status: Answer(description="What has come of it.", model=model)},
        body=body,
        examples=examples or {},
        parameters=parameters or {},
        errors=(NotFound, Conflict),
        tag=_ADMINISTRATION,
    )


SERVICES: Final = _operation("listAdminServices", "All services and their engines", AdminOverview)
RELOAD: Final = _operation(
    "reload",
    "Take on the configuration as it now is",
    ReloadOutcome,
    description="Checked first: where something is wrong with it, 409 says what, and the old one stays in force.",
)
DRAIN_ALL: Final = _operation("drainAll", "Have all services take no new requests", AdminServices)
RESUME_ALL: Final = _operation("resumeAll", "Have all services take requests again", AdminServices)
DRAIN: Final = _operation("drain", "Have a service take no new requests", AdminServices, parameters=_SERVICE)
RESUME: Final = _operation("resume", "Have a service take requests again", AdminServices, parameters=_SERVICE)
SWITCH: Final = _operation(
    "switchEngine",
    "Have another engine of the chain serve",
    WishGranted,
    description="It is granted, and takes its time.",
    body=EngineChoice,
    examples={"an engine": {"engine": "llama.cpp"}, "the order of the configuration": {"engine": None}},
    parameters=_SERVICE,
    status=202,
)
RESTART: Final = _operation(
    "restartEngine",
    "Start an engine anew",
    WishGranted,
    description="It is granted, and takes its time.",
    parameters=_ENGINE,
    status=202,
)
