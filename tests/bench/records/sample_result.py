"""A small result of made-up figures, for tests: `sample.json` beside it is what the program's writer makes of it.

python -m tests.bench.records.sample_result
"""

from __future__ import annotations

import math
from datetime import UTC, datetime
from pathlib import Path

from bench.records.record import (
    ClosedLoad,
    Gpu,
    Load,
    Machine,
    MemorySample,
    ModelFile,
    OpenLoad,
    PowerSample,
    Predicted,
    Report,
    Run,
    TargetRecord,
    WorkloadRecord,
    gap_histogram,
    write,
)

SAMPLE = Path(__file__).with_name("sample.json")
_GIB = 1 << 30
_SPEED = {"vllm": 1.0, "llama.cpp": 0.9}
_CARD = "NVIDIA GeForce RTX 3060"


def report() -> Report:
    loads: list[Load] = [ClosedLoad(1), ClosedLoad(4), ClosedLoad(8), OpenLoad(0.5), OpenLoad(1.0)]
    runs = [
        _run(target, workload, load, repetition)
        for workload in ("short-chat", "long-record")
        for load in (loads if workload == "short-chat" else loads[:1])
        for repetition in range(3)
        for target in _SPEED
    ]
    return Report(
        suite="sample",
        started_at=datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC),
        machine=Machine(
            system="Linux 6.8.0 x86_64",
            cpu="Example CPU 9000",
            n_cpus=8,
            memory_bytes=32 * _GIB,
            gpus=(Gpu(_CARD, 12 * _GIB, "580.1", 170.0),),
            versions={"gguf-server": "0.1.0", "python": "3.11.9"},
        ),
        targets=tuple(_target(name) for name in _SPEED),
        workloads=(
            WorkloadRecord("short-chat", "A question of 120 tokens, 128 tokens of answer.", {"n_prompt": 120}),
            WorkloadRecord("long-record", "A record near the context limit.", {"n_prompt": 3000}),
        ),
        runs=tuple(runs),
        notes=("Made-up figures: nothing was measured.",),
    )


def _target(name: str) -> TargetRecord:
    table = {"kind": "vllm", "quantization": "gguf"} if name == "vllm" else {"kind": "llamacpp", "device": "cuda"}
    return TargetRecord(
        name=name,
        url="http://127.0.0.1:8093/v1",
        engine=name,
        engine_version="0.32.0" if name == "vllm" else "0.3.36",
        model="example-7b",
        files=(ModelFile("example-7b-q4_k_m.gguf", 4 * _GIB, "ab" * 32),),
        card=_CARD,
        card_memory_bytes=12 * _GIB,
        driver="580.1",
        argv=("serve", "--model", "example-7b-q4_k_m.gguf"),
        engine_table=table,
    )


def _run(target: str, workload: str, load: Load, repetition: int) -> Run:
    busy = load.streams if isinstance(load, ClosedLoad) else 4 * load.rate_per_s
    drift = 1 + 0.02 * math.sin(repetition + busy)
    tok_per_s = 60 * _SPEED[target] * busy / (1 + 0.08 * busy) * drift
    gap_s = busy / tok_per_s
    ttft_s = gap_s * (20 if workload == "long-record" else 4)
    peak = int((6 + 0.2 * busy + (2 if target == "vllm" else 0)) * _GIB)
    figures = {
        "requests": 16.0,
        "errors": 0.0,
        "duration_s": 16 * 128 / tok_per_s,
        "output_tok_per_s": tok_per_s,
        "prompt_tok_per_s": tok_per_s * 0.9,
        "goodput_per_s": tok_per_s / 128,
        **_spread("ttft_s", ttft_s),
        **_spread("gap_s", gap_s),
        **_spread("e2e_s", ttft_s + 128 * gap_s),
        "gpu_peak_bytes": float(peak),
        "power_mean_w": 120.0,
        "energy_j_per_output_tok": 120.0 / tok_per_s,
    }
    return Run(
        target=target,
        workload=workload,
        load=load,
        repetition=repetition,
        figures={name: round(value, 6) for name, value in figures.items()},
        gaps=gap_histogram(gap_s * (0.7 + 0.1 * (index % 9)) for index in range(200)),
        memory=tuple(MemorySample(float(t), 2 * _GIB, min(peak, (3 + t) * _GIB)) for t in range(6)),
        power=tuple(PowerSample(float(t), 90.0 + 10 * min(t, 4)) for t in range(6)),
        predicted={"output_tok_per_s": Predicted(58.0, 0.15)} if load == ClosedLoad(1) else {},
    )


def _spread(name: str, middle: float) -> dict[str, float]:
    return {f"{name}_p50": middle, f"{name}_p95": 1.4 * middle, f"{name}_p99": 1.6 * middle}


if __name__ == "__main__":
    write(report(), SAMPLE)
