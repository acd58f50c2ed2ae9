"""Who answers: an engine's name and version by what it says of itself, its files by their hashes, its card by NVML."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Final

import aiohttp
import orjson
import psutil

from bench.measuring.gpus import Card, CardError, Gpus, gpus
from bench.measuring.load import Target, connect
from bench.records.record import ModelFile, TargetRecord
from bench.servers.processes import family

_LIMIT_S: Final = 30.0
_MOST_BYTES: Final = 4 * 1024 * 1024
_MOST_CHARS: Final = 200
_ENGINES: Final[Mapping[str, str]] = {
    "llamacpp": "llama-server",
    "me": "llama_cpp.server",
    "library": "ollama",
    "openai": "",
    "": "",
}
"""By `owned_by` of `/v1/models`, where that is not the engine's name itself."""
_METRICS: Final[Mapping[str, str]] = {"vllm:": "vllm", "llamacpp:": "llama-server", "sglang:": "sglang"}
UNKNOWN: Final = "unknown"


@dataclass(frozen=True, slots=True)
class Said:
    """What a server says of itself; empty where it says nothing."""

    engine: str = ""
    version: str = ""
    n_ctx: int | None = None


async def ask(target: Target) -> Said:
    """Asks what engines answer: `/v1/models`, `/version`, `/props`, `/metrics`. No answer is no error."""
    async with connect(target) as session:
        models, version, props = [_table(await _get(session, path)) for path in ("/v1/models", "/version", "/props")]
        metrics = await _get(session, "/metrics")
    model = _model(models, target.model)
    owner = _text(model.get("owned_by"))
    engine = _ENGINES.get(owner, owner)
    if not engine:
        engine = next((name for mark, name in _METRICS.items() if f"\n{mark}" in metrics), "")
    n_ctx = model.get("max_model_len")
    if n_ctx is None:
        n_ctx = _table_in(props, "default_generation_settings").get("n_ctx")
    told = _text(version.get("version")) or _text(props.get("build_info"))
    return Said(engine, told, n_ctx if isinstance(n_ctx, int) else None)


async def identify(
    target: Target,
    *,
    engine: str = "",
    files: Sequence[Path] = (),
    argv: Sequence[str] = (),
    pid: int | None = None,
    card: Card | None = None,
    engine_table: Mapping[str, bool | int | float | str] | None = None,
) -> TargetRecord:
    """What is told here goes before what is found out. Reads all of `files`, each once in a process's life.

    Of a model that is called by its path, as llama-server does, the file's name is kept. Raises `OSError` for a file
    that cannot be read.
    """
    said = await ask(target)
    if card is None and pid is not None:
        card = await asyncio.to_thread(card_of, pid)
    return TargetRecord(
        name=target.name,
        url=target.url,
        engine=engine or said.engine or UNKNOWN,
        engine_version=said.version or None,
        model=Path(target.model).name if target.model.startswith("/") else target.model,
        files=tuple([await asyncio.to_thread(file_record, path) for path in files]),
        card=card.name if card else None,
        card_memory_bytes=card.memory_bytes if card else None,
        driver=card.driver if card else None,
        argv=tuple(argv),
        engine_table=engine_table or {},
    )


def file_record(path: Path) -> ModelFile:
    """Blocks as long as reading the file takes. Raises `OSError`."""
    told = path.stat()
    return ModelFile(path.name, told.st_size, _sha256(path.resolve(), told.st_size, told.st_mtime_ns))


@lru_cache(maxsize=256)
def _sha256(path: Path, n_bytes: int, mtime_ns: int) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def card_of(pid: int) -> Card | None:
    """The card on which the process or a child of it has most memory.

    None without one, and where the driver does not tell processes apart, as in some containers.
    """
    try:
        with gpus() as found:
            return _busiest(found, {process.pid for process in family(psutil.Process(pid))})
    except (CardError, psutil.NoSuchProcess):
        return None


def _busiest(found: Gpus, pids: set[int]) -> Card | None:
    cards = found.cards()
    bytes_of = {card.index: Gpus({card.index: found.handles[card.index]}).bytes_of(pids) for card in cards}
    best = max(cards, key=lambda card: bytes_of[card.index], default=None)
    return best if best is not None and bytes_of[best.index] else None


async def _get(session: aiohttp.ClientSession, path: str) -> str:
    """The first bytes of an answer; empty where there is none with status 200."""
    try:
        async with asyncio.timeout(_LIMIT_S), session.get(path) as answer:
            if answer.status != 200:
                return ""
            body = bytearray()
            async for piece in answer.content.iter_any():
                body += piece
                if len(body) > _MOST_BYTES:
                    break
            return body.decode(errors="replace")
    except (aiohttp.ClientError, TimeoutError, OSError):
        return ""


def _table(text: str) -> dict[str, Any]:
    try:
        found = orjson.loads(text)
    except orjson.JSONDecodeError:
        return {}
    return found if isinstance(found, dict) else {}


def _table_in(table: Mapping[str, Any], key: str) -> dict[str, Any]:
    found = table.get(key)
    return found if isinstance(found, dict) else {}


def _model(models: Mapping[str, Any], name: str) -> dict[str, Any]:
    """Of the model of this name, or of the first."""
    listed = models.get("data")
    tables = [model for model in listed if isinstance(model, dict)] if isinstance(listed, list) else []
    return next((model for model in tables if model.get("id") == name), tables[0] if tables else {})


def _text(value: object) -> str:
    return value[:_MOST_CHARS] if isinstance(value, str) else ""
