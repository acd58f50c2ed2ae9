"""Planned beside measured memory as `docs/planner-memory.md`: `python -m tests.weights.memory_table` writes it."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Final

from tests.weights import real_models
from tests.weights.breakdown import MIB, Told, measure
from tests.weights.memory_cases import CASES, written
from tests.weights.two_devices import RECORDED, plan_for_two
from weights.cards import CARDS
from weights.gguf_model import read
from weights.load_settings import LoadSettings
from weights.memory_plan import MemoryPlan, plan_memory

PAGE: Final = Path(__file__).parents[2] / "docs" / "planner-memory.md"

Compared = Mapping[str, tuple[Told, MemoryPlan]]
"""By the case's name, what llama.cpp says and what was planned."""

_HEAD: Final = """\
# What it will take: planned memory beside llama.cpp's own breakdown

`weights/memory_plan.py` says before a model is loaded what llama.cpp will take of the card and of the host, from the
GGUF's header alone. This page is made by `python -m tests.weights.memory_table`; a test holds each part to llama.cpp's
own words, within 5 % (or 48 KiB, where a part of a tiny model is no more than that), and this page to both.

- **Weights**: every tensor where llama.cpp puts it. Token embeddings and Gemma's embeddings for each layer stay on the
  host; where there is no output matrix the token embeddings are on the card a second time. On a CPU for which llama.cpp
  repacks a type (Q4_0, Q4_K and others) it says the repacked weights beside the mapped file, whose pages may then go:
  the plan counts them once.
- **KV cache**: cells by type, padded to 256, in one pool or a share for each sequence. Layers with a sliding window
  have cells for the window and one step, layers that share the keys of others none.
- **Compute buffers**: the graph of a prompt step is laid out as ggml's allocator would, with what is overwritten, freed
  and copied between host and card. That is why it is exact, and why it is not simply a sum.
- **Image encoder**: its weights, the buffers of its trial image, and what the largest image takes beyond that.
- **CUDA context**: 450 MiB, what the breakdown in llama.cpp's pull request 15860 leaves over on an RTX 4090; and 3 % of
  a card's memory that NVML counts and CUDA does not have. Nobody here has measured either on the two cards.
"""

_TWO_DEVICES: Final = """\
There is no card here. llama.cpp's RPC backend takes a server for one, and shares tensors, cache and graph with it by
the same rules; what it said of both devices is kept (`tests/weights/two_devices.py`). Of files without weights it tells
of compute buffers alone.
"""

_LIMITS: Final = """
## What is not held to anything

- Layers left on the CPU: weights and cache are exact, the compute buffers of the card within some 50 MiB, and the room
  for matrices that are copied to the card for long prompts is the largest of them.
- Recurrent layers other than Mamba's and Qwen3.5's: their state is exact, their compute buffers are taken to be like
  Mamba's.
- Models that embed texts, and models whose context llama.cpp keeps in ways of its own (DeepSeek V3.2 and V4, MiniMax M3
  and others): the planner says that it does not know.
- vLLM (`weights/vllm_memory.py`): weights and KV cache follow from its rules and agree with what it has reported
  (Qwen2.5-7B-AWQ 5.20 GiB; 2.81 GiB of cache for 131,072 tokens of SmolLM2). The trial step, CUDA graphs (256 MiB), the
  trial image (512 MiB) and CUDA (450 MiB in all) are estimates that nobody here has measured.
"""

_TARGETS: Final = {
    "Qwen3-14B Q4_K_M, RTX 5060 Ti 16 GB, 2 requests of 14,384": ("qwen3-14b", "rtx-5060-ti-16gb", 14384, 2, False),
    "Gemma 4 E4B Q4_K_M, RTX 3060 12 GB, 2 requests of 4,096, images": ("gemma-4-e4b", "rtx-3060-12gb", 4096, 2, True),
    "Qwen2.5-7B Q4_K_M, RTX 3060 12 GB, 4 requests of 8,192": ("qwen2.5-7b", "rtx-3060-12gb", 8192, 4, False),
}


def compare(folder: Path) -> Compared:
    cases = {name: written(wanted, folder) for name, wanted in CASES.items()}
    told = measure(list(cases.values()))
    plans = [
        plan_memory(read(case.model), case.settings, None, read(case.projector) if case.projector else None)
        for case in cases.values()
    ]
    return dict(zip(cases, zip(told, plans, strict=True), strict=True))


def page(compared: Compared, folder: Path) -> str:
    return "\n".join([_HEAD, *_checked(compared), "", *_shared(folder), "", *_cards(folder), _LIMITS])


def _checked(compared: Compared) -> Iterator[str]:
    yield "## Planned and said by llama.cpp, MiB, everything on the host\n"
    header = ("shape", "part", "planned", "llama.cpp", "difference")
    yield from _rows([header, ("---", "---", "---:", "---:", "---:")])
    for name, (told, plan) in compared.items():
        rows = [(part, plan.part(part).host_bytes, sizes["host"]) for part, sizes in told.items() if sizes["host"]]
        for place, (part, planned, said) in enumerate(rows):
            difference = f"{planned / said - 1:+.1%}"
            yield from _rows([(name if place == 0 else "", part, _mib(planned), _mib(said), difference)])


def _shared(folder: Path) -> Iterator[str]:
    yield "## Shared between a card and the host, MiB\n"
    yield _TWO_DEVICES
    header = ("shape", "part", "card, planned", "llama.cpp", "host, planned", "llama.cpp")
    yield from _rows([header, ("---", "---", "---:", "---:", "---:", "---:")])
    for name, told in RECORDED.items():
        plan = plan_for_two(name, folder)
        for place, (part, sizes) in enumerate(told.items()):
            on_card = (_mib(plan.part(part).gpu_bytes), _mib(sizes["gpu"]))
            on_host = (_mib(plan.part(part).host_bytes), _mib(sizes["host"]))
            yield from _rows([(name if place == 0 else "", part, *on_card, *on_host)])


def _cards(folder: Path) -> Iterator[str]:
    yield "## The two cards\n"
    yield "What `gguf-server plan` says, GiB. The operators of the first see about 14 GB in use.\n"
    yield from _rows([("model", "part", "card", "host"), ("---", "---", "---:", "---:")])
    for name, (model, card, n_ctx, n_seqs, sees) in _TARGETS.items():
        file = real_models.write(model, "Q4_K_M", folder / "target.gguf")
        projector = read(real_models.write_gemma4_projector(folder / "target-mmproj.gguf")) if sees else None
        plan = plan_memory(read(file), LoadSettings(n_ctx=n_ctx, n_seqs=n_seqs), CARDS[card], projector)
        for place, part in enumerate(plan.parts):
            yield from _rows([(name if place == 0 else "", part.name, _gib(part.gpu_bytes), _gib(part.host_bytes))])
        yield from _rows([("", "**together**", _gib(plan.gpu_bytes), _gib(plan.host_bytes))])
        yield from _rows([("", "to spare", _gib(plan.margin_bytes or 0), "")])


def _rows(rows: Iterable[tuple[str, ...]]) -> Iterator[str]:
    return ("| " + " | ".join(row) + " |" for row in rows)


def _mib(n_bytes: int) -> str:
    return f"{n_bytes / MIB:,.2f}"


def _gib(n_bytes: int) -> str:
    return f"{n_bytes / (1 << 30):.2f}" if n_bytes else "-"


def main() -> None:
    with tempfile.TemporaryDirectory() as name:
        PAGE.write_text(page(compare(Path(name)), Path(name)), encoding="utf-8")


if __name__ == "__main__":
    main()
