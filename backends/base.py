"""What the gateway knows of an engine: an OpenAI-speaking HTTP server in a process of its own.

    state      may become                      meaning
    stopped    starting                        no process
    starting   ready, failed, stopped          process spawned, not yet able to answer
    ready      draining, failed, stopped       answers requests
    draining   stopped, failed                 is being ended
    failed     starting                        no process; `failure` says why

What makes one state become another is in `backends.process.TRANSITIONS`.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol


class EngineState(StrEnum):
    STOPPED = "stopped"
    STARTING = "starting"
    READY = "ready"
    DRAINING = "draining"
    FAILED = "failed"


class FailureReason(StrEnum):
    """Why an engine is not there, in terms a person can act on."""

    NOT_INSTALLED = "not_installed"
    NO_GPU = "no_gpu"
    OUT_OF_MEMORY = "out_of_memory"
    WEIGHTS_MISSING = "weights_missing"
    WEIGHTS_DAMAGED = "weights_damaged"
    UNSUPPORTED_MODEL = "unsupported_model"
    INVALID_SETTINGS = "invalid_settings"
    START_TIMEOUT = "start_timeout"
    CRASHED = "crashed"
    UNHEALTHY = "unhealthy"


class EngineFailure(Exception):
    """An engine would not start, or died.

    `detail` is one sentence for a person; `log_tail` the last lines the process printed, oldest first;
    `exit_code` is negative for a signal, None where no process ended.
    """

    def __init__(
        self,
        reason: FailureReason,
        detail: str,
        *,
        exit_code: int | None = None,
        log_tail: tuple[str, ...] = (),
    ) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason = reason
        self.detail = detail
        self.exit_code = exit_code
        self.log_tail = log_tail


class Dialect(StrEnum):
    """What an engine speaks beyond OpenAI's chat and text completions.

    VLLM: `/tokenize` takes `messages`, a chat takes `continue_final_message`; the llama.cpp worker here does too.
    LLAMA_SERVER: llama.cpp's own `/tokenize` and `/apply-template`, an assistant's last message is continued.
    OPENAI: nothing beyond; tokens cannot be counted there, a begun answer cannot be continued.
    """

    VLLM = "vllm"
    LLAMA_SERVER = "llama-server"
    OPENAI = "openai"


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where a running engine answers: `base_url` has no trailing slash; `uds_path` goes before its host and port.

    `model` is what the engine wants to read in `model`; None: whatever the service calls it. `steps_metrics` names
    series of its `/metrics`, one of which at least changes with each step it computes, prompts included.
    `continues_reasoning`: an assistant's last message with `reasoning_content` alone is gone on with as reasoning.
    `embeds`: it makes vectors of texts, and no texts.
    """

    base_url: str
    api_key: str
    uds_path: str | None = None
    dialect: Dialect = Dialect.VLLM
    model: str | None = None
    steps_metrics: tuple[str, ...] = ()
    continues_reasoning: bool = False
    embeds: bool = False


class Engine(Protocol):
    """One engine of a chain. `start` and `stop` are called by one owner, never at the same time."""

    @property
    def name(self) -> str:
        """What clients are told in `x-engine`."""

    @property
    def kind(self) -> str:
        """Which family it belongs to: `vllm`, `llamacpp`, `llama-server` or `openai`."""

    @property
    def device(self) -> str:
        """What it was asked to compute on: `auto`, `cuda` or `cpu`; `remote` where that is another's business."""

    @property
    def cuda_device(self) -> int | None:
        """Index of its card; None: any of them, or none."""

    @property
    def pid(self) -> int | None:
        """Of the process group that is its own; None where there is none."""

    @property
    def state(self) -> EngineState: ...

    @property
    def failure(self) -> EngineFailure | None:
        """The last failure, kept until the next successful start."""

    @property
    def endpoint(self) -> Endpoint:
        """Valid while `ready` or `draining`; a new one, with a new key, after each start."""

    async def start(self) -> None:
        """Spawn and wait until a real token came back. Raises `EngineFailure`; cancelling it stops the process."""

    async def wait_failed(self) -> EngineFailure:
        """Return once a ready engine is no longer one without having been asked. Safe to cancel."""

    async def condemn(self, failure: EngineFailure) -> None:
        """End a ready engine that does not do its work: killed at once, `failed` for the reason given."""

    async def stop(self) -> None:
        """End the process and everything it spawned; returns when all of it is gone. Does nothing twice."""
