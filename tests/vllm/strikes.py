"""Ways in which a real vLLM dies, and the long answers that it dies in."""

from __future__ import annotations

import signal
from collections.abc import Callable
from typing import Any

from tests.e2e.client import Json, chat
from tests.vllm.chains import Chain

STORY = "Tell me a long story about a fox."
N_TOKENS = 120

Strike = Callable[[Chain], None]


def kill_engine_core(chain: Chain) -> None:
    chain.processes_of_vllm()["EngineCore"].kill()


def kill_server(chain: Chain) -> None:
    chain.processes_of_vllm()["api"].kill()


def kill_worker(chain: Chain) -> None:
    chain.processes_of_vllm()["Worker"].kill()


def stop_engine_core(chain: Chain) -> None:
    chain.processes_of_vllm()["EngineCore"].send_signal(signal.SIGSTOP)


DEATHS = (kill_engine_core, kill_worker, kill_server, stop_engine_core)


def story(**fields: Any) -> Json:
    return chat(STORY, **{"max_tokens": N_TOKENS, "ignore_eos": True, "stream": True, **fields})
