"""Why vLLM ended, read from its exit code and its last lines; and how far a start came that did not end in time.

The cause of a failure inside the engine is told by the engine's processes, which name themselves at the beginning of
a line; the server then adds `Engine core initialization failed`. Exit code 0 means nothing: it is what the server ends
with when its engine process has died.
"""

from __future__ import annotations

import re
import signal
from collections.abc import Iterable
from typing import Final

from backends.base import EngineFailure, FailureReason
from backends.process import exit_in_words

_R = FailureReason

# The first row that matches any line decides; the line becomes the detail. Exact words of vLLM 0.23 to 0.33.
_FAILURES: Final[tuple[tuple[str, FailureReason], ...]] = (
    (r"Failed to infer device type", _R.NO_GPU),
    (r"No CUDA GPUs are available|no CUDA-capable device|Found no NVIDIA driver|NVIDIA driver .* too old", _R.NO_GPU),
    (r"Triton dequant kernels require CUDA tensors", _R.NO_GPU),
    (r"CUDA out of memory|OutOfMemoryError|DefaultCPUAllocator: can't allocate memory", _R.OUT_OF_MEMORY),
    (r"Free memory on device .* less than ", _R.OUT_OF_MEMORY),
    (r"No available memory for the cache blocks", _R.OUT_OF_MEMORY),
    (r"larger than the available KV cache memory", _R.OUT_OF_MEMORY),
    (r"Unknown quantization method: '?(gguf|bitsandbytes)", _R.NOT_INSTALLED),
    (r"config file at '.*\.gguf' is not a valid JSON", _R.NOT_INSTALLED),
    (r"PackageNotFoundError: |ModuleNotFoundError: No module named|ImportError: lib\S+: cannot open", _R.NOT_INSTALLED),
    (r"are not supported for now|does not recognize this architecture", _R.UNSUPPORTED_MODEL),
    (r"Unknown gguf model_type|Failed to map GGUF parameters", _R.UNSUPPORTED_MODEL),
    (r"is not supported for the current GPU|(shape|size) mismatch|Attempted to load weight", _R.UNSUPPORTED_MODEL),
    (r"HFValidationError|LocalEntryNotFoundError|RepositoryNotFoundError|EntryNotFoundError", _R.WEIGHTS_MISSING),
    (r"GatedRepoError|Unrecognized model in|Cannot find any model weights", _R.WEIGHTS_MISSING),
    (r"is not a local folder and is not a valid model identifier|Unrecognised GGUF reference", _R.WEIGHTS_MISSING),
    (r"SafetensorError|cannot reshape array", _R.WEIGHTS_DAMAGED),
    (r"greater than the derived max_model_len", _R.INVALID_SETTINGS),
    (r"invalid (tool call|reasoning) parser|Address already in use", _R.INVALID_SETTINGS),
    (r"not supported for quantization method|precision issues with bfloat16", _R.INVALID_SETTINGS),
    (r"Bfloat16 is only supported|Sleep mode is not supported", _R.INVALID_SETTINGS),
    (r"Tried to register an operator|Duplicate op registration", _R.INVALID_SETTINGS),
)
_PHASES: Final[tuple[tuple[str, str], ...]] = (
    ("Application startup complete", "the server was up, and no token came"),
    ("Starting vLLM server on", "the server was being opened"),
    ("init engine (profile, create kv cache, warmup model) took", "the engine was warm"),
    ("KV cache size:", "the memory was allotted, the warm-up ran"),
    ("Loading weights took", "the weights were loaded, the memory was being measured"),
    ("Starting to load model", "the weights were being loaded"),
    ("Initializing a V1 LLM engine", "the engine process was starting"),
    ("Resolved architecture", "the model's configuration was read"),
)
_UP = "Application startup complete"
_NOT_THE_CAUSE = re.compile(r"Engine core initialization failed|WorkerProc initialization failed|BrokenPipeError")
_CAUSE = re.compile(r"\b\w*(Error|Exception): ")
_DIED = re.compile(r"EngineDeadError|died unexpectedly|EngineCore encountered an issue")
_KILLED = re.compile(r"Failed core proc\(s\): \{'\w+': (-\d+)")
_BENIGN = re.compile(r"\[Errno 24\]")
_OF_A_RUNNING_SERVER = (
    r"^Engine \d+: Avg |^(Started|Finished) server process|^(Waiting for )?[Aa]pplication s(tartup|hutdown)"
    r"|^Shutting down|CUDA error|CUBLAS_STATUS|CUDNN_STATUS|NCCL error|illegal memory access|std::bad_alloc"
)
_HOLDS_REQUESTS = re.compile(r"Dumping (scheduler output|input data)")

HARMLESS: Final = "|".join(
    [*(f"(?:{pattern})" for pattern, _ in _FAILURES), _DIED.pattern, _KILLED.pattern, _OF_A_RUNNING_SERVER]
)
"""Lines that say why it ended, or how it runs, and never what was asked."""

_COLOUR = re.compile(r"\x1b\[[0-9;]*m")
_PROCESS = re.compile(r"^\((?P<process>\w+)[^()]*\)\s*")
_LEVEL = re.compile(r"^(?P<level>[A-Z]+) \d\d-\d\d \d\d:\d\d:\d\d(\.\d+)? (\[[^\]]*\] ?)?")
_TOLD_ALL_IS_WELL = ("DEBUG", "INFO", "WARNING")
_LONGEST_DETAIL = 400


def classify(exit_code: int, log_tail: tuple[str, ...]) -> EngineFailure:
    """Why vLLM ended. What it dumps of requests when its engine dies is not kept."""
    kept = tuple(line for line in log_tail if not _HOLDS_REQUESTS.search(line))
    reason, detail = _explain(exit_code, kept)
    return EngineFailure(reason, detail, exit_code=exit_code, log_tail=kept)


def phase(log_tail: tuple[str, ...]) -> str:
    """How far a start had come, for a person."""
    for line in reversed(log_tail):
        for marker, words in _PHASES:
            if marker in line:
                return words
    return "it was still importing" if log_tail else "it had said nothing"


def _explain(exit_code: int, log_tail: tuple[str, ...]) -> tuple[FailureReason, str]:
    by_engine, by_others = _telling(log_tail)
    lines = by_others + by_engine
    for pattern, reason in _FAILURES:
        if line := _last_match(re.compile(pattern), lines):
            return reason, line
    how = _ended(exit_code)
    if exit_code == 2:
        return FailureReason.INVALID_SETTINGS, _last_match(re.compile(r"\berror: "), lines) or how
    if killed := next((found for line in lines if (found := _KILLED.search(line))), None):
        return FailureReason.CRASHED, f"its engine process was {_ended(int(killed[1]))}"
    if any(_DIED.search(line) for line in lines):
        how = f"its engine process died, and it {how}"
    cause = _last_match(_CAUSE, _causes(by_engine)) or _last_match(_CAUSE, _causes(by_others))
    return FailureReason.CRASHED, f"{how}: {cause}" if cause else how


def _ended(exit_code: int) -> str:
    how = exit_in_words(exit_code)
    return f"{how}, perhaps by the kernel for memory" if exit_code == -signal.SIGKILL else how


def _telling(log_tail: tuple[str, ...]) -> tuple[list[str], list[str]]:
    """The lines that may hold the cause, cleaned: those of the engine's processes, and all others.

    Two pipes are read, so the order of lines of different processes means little. Once it serves, what the server
    itself says is about requests, unless it is that the engine died.
    """
    is_up = any(_UP in line for line in log_tail)
    by_engine, by_others = list[str](), list[str]()
    for raw in log_tail:
        process, level, line = _parts(raw)
        if level in _TOLD_ALL_IS_WELL or _BENIGN.search(line):
            continue
        if "Engine" in process or "Worker" in process:
            by_engine.append(_shortened(line))
        elif not is_up or _DIED.search(line):
            by_others.append(_shortened(line))
    return by_engine, by_others


def _causes(lines: Iterable[str]) -> list[str]:
    return [line for line in lines if not (_DIED.search(line) or _NOT_THE_CAUSE.search(line))]


def _parts(raw: str) -> tuple[str, str, str]:
    """Process, level and text of a line; the first two empty where it does not name them."""
    line = _COLOUR.sub("", raw).strip()
    process = _PROCESS.match(line)
    line = line[process.end() :] if process else line
    level = _LEVEL.match(line)
    line = line[level.end() :] if level else line
    return process["process"] if process else "", level["level"] if level else "", line.strip()


def _shortened(line: str) -> str:
    return line if len(line) <= _LONGEST_DETAIL else f"{line[: _LONGEST_DETAIL - 1]}…"


def _last_match(pattern: re.Pattern[str], lines: list[str]) -> str | None:
    return next((line for line in reversed(lines) if pattern.search(line)), None)
