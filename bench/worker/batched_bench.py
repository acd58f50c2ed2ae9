"""llama.cpp's own measure of what it can compute, without a server: `llama-batched-bench`."""

from __future__ import annotations

import asyncio
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import orjson

_LIMIT_S: Final = 600.0


@dataclass(frozen=True, slots=True)
class Shape:
    """`n_prompt` tokens in and `n_output` tokens out, of `streams` at once."""

    streams: int
    n_prompt: int = 119
    n_output: int = 128


@dataclass(frozen=True, slots=True)
class Limit:
    """Tokens a second: of prompts, of output, and of both over the whole time."""

    prompt_per_s: float
    output_per_s: float
    total_per_s: float


def argv(program: Path, model: Path, shape: Shape, threads: int) -> list[str]:
    n_ctx = (shape.n_prompt + shape.n_output) * shape.streams
    line = [
        str(program),
        "--model",
        str(model),
        "--ctx-size",
        str(n_ctx),
        "--batch-size",
        "512",
        "--ubatch-size",
        "512",
    ]
    line += ["-npp", str(shape.n_prompt), "-ntg", str(shape.n_output), "-npl", str(shape.streams)]
    return [*line, "--threads", str(threads), "--threads-batch", str(threads), "--output-format", "jsonl"]


async def measure(program: Path, model: Path, shape: Shape, threads: int) -> Limit:
    """Raises `RuntimeError` where it fails, `OSError` where it is not there."""
    line = argv(program, model, shape, threads)
    done = await asyncio.to_thread(subprocess.run, line, capture_output=True, text=True, timeout=_LIMIT_S, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"llama-batched-bench ended with {done.returncode}: {done.stderr[-300:]}")
    return parse(done.stdout)


def parse(output: str) -> Limit:
    """Of its one line of JSON. Raises `RuntimeError` where there is none."""
    for line in output.splitlines():
        if line.startswith("{"):
            found = orjson.loads(line)
            return Limit(found["speed_pp"], found["speed_tg"], found["speed"])
    raise RuntimeError("llama-batched-bench printed no figures")
