"""What the step thread counts."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(slots=True)
class StepStats:
    """Counters since start. `step_s` is time with work to do, `decode_s` the part of it inside `llama_decode`."""

    n_steps: int = 0
    step_s: float = 0.0
    decode_s: float = 0.0
    n_prompt_tokens: int = 0
    n_reused_tokens: int = 0
    n_generated_tokens: int = 0
    n_drafted_tokens: int = 0
    n_accepted_tokens: int = 0
    n_preempted: int = 0
    n_failed_steps: int = 0
    n_forks: int = 0
    n_spills: int = 0
    n_restores: int = 0
    n_cache_checks: int = 0
    n_running: int = 0
    n_waiting: int = 0
    n_cells_used: int = 0
    n_spilled_bytes: int = 0
