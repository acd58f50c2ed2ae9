"""How large llama.cpp's compute buffers become: its graph allocator, walked through without a byte being allocated.

A result takes the smallest hole that holds it, or grows the buffer; it is freed behind its last reader, and some
operations write over what they read, unless they read it as a view (in other dimensions, or a part of it). Where a
node reads from the other device, a copy is made before the first node of the run of nodes it belongs to. The rules are
those of ggml-alloc.c and ggml-backend.cpp, for one card and the host.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Final


class Device(Enum):
    HOST = "host"
    GPU = "gpu"


_ALIGNMENT: Final[Mapping[Device, int]] = {Device.HOST: 64, Device.GPU: 128}


@dataclass(frozen=True, slots=True, eq=False)
class Result:
    """What a node computes, or an input that is there before any node."""

    n_bytes: int
    device: Device
    is_output: bool = False


@dataclass(frozen=True, slots=True, eq=False)
class _Node:
    result: Result
    sources: tuple[Result, ...]
    views: tuple[Result, ...] = ()
    in_place: bool = False

    @property
    def reads(self) -> tuple[Result, ...]:
        return (*self.sources, *self.views)


@dataclass(slots=True)
class Graph:
    """Nodes in the order they are computed. Weights and the KV cache are no results: they lie elsewhere."""

    inputs: list[Result] = field(default_factory=list)
    nodes: list[_Node] = field(default_factory=list)

    def input(self, n_bytes: int) -> Result:
        """Filled by the host before the first node."""
        result = Result(n_bytes, Device.HOST)
        self.inputs.append(result)
        return result

    def compute(
        self,
        device: Device,
        n_bytes: int,
        *sources: Result,
        views: tuple[Result, ...] = (),
        in_place: bool = False,
        is_output: bool = False,
    ) -> Result:
        """`in_place`: may overwrite the first of `sources` that is of its own size and that nothing else reads."""
        result = Result(n_bytes, device, is_output)
        self.nodes.append(_Node(result, sources, views, in_place))
        return result

    def store(self, device: Device, *sources: Result) -> None:
        """Write `sources` into the cache, or whatever else has its memory already."""
        self.compute(device, 0, *sources)


def buffer_bytes(graph: Graph) -> dict[Device, int]:
    """Size of the compute buffer of each device."""
    heaps = {device: _Heap(alignment) for device, alignment in _ALIGNMENT.items()}
    nodes = _with_copies(graph)
    readers = Counter(source for node in nodes for source in node.reads)
    offsets = {result: heaps[result.device].take(result.n_bytes) for result in graph.inputs}
    for node in nodes:
        if node.result.n_bytes:
            _place(node, offsets, readers, heaps[node.result.device])
        for source in node.reads:
            readers[source] -= 1
            if not readers[source] and not source.is_output and source in offsets:
                heaps[source.device].give_back(offsets.pop(source), source.n_bytes)
    return {device: heap.n_bytes for device, heap in heaps.items()}


def _place(node: _Node, offsets: dict[Result, int], readers: Counter[Result], heap: _Heap) -> None:
    for source in node.sources if node.in_place else ():
        is_free = source in offsets and readers[source] == 1 and not source.is_output
        if is_free and source.n_bytes == node.result.n_bytes:
            offsets[node.result] = offsets.pop(source)
            return
    offsets[node.result] = heap.take(node.result.n_bytes)


def _with_copies(graph: Graph) -> list[_Node]:
    """The nodes, and before each run of nodes on one device the copies of what it reads from the other."""
    copies: dict[Result, Result] = {}
    nodes: list[_Node] = []
    for run in _runs(graph.nodes):
        device = run[0].result.device
        foreign = dict.fromkeys(source for node in run for source in node.reads if source.device is not device)
        for source in foreign:
            if source not in copies:
                copies[source] = Result(source.n_bytes, device)
                nodes.append(_Node(copies[source], (source,)))
        for node in run:
            sources = tuple(copies[source] if source in foreign else source for source in node.sources)
            copied = tuple(copies[view] for view in node.views if view in foreign)  # a copy is no view any more
            views = tuple(view for view in node.views if view not in foreign)
            nodes.append(_Node(node.result, (*sources, *copied), views, node.in_place))
    return nodes


def _runs(nodes: list[_Node]) -> Iterator[list[_Node]]:
    run: list[_Node] = []
    for node in nodes:
        if run and run[-1].result.device is not node.result.device:
            yield run
            run = []
        run.append(node)
    if run:
        yield run


@dataclass(slots=True)
class _Hole:
    offset: int
    n_bytes: int


class _Heap:
    """One buffer: holes by offset, and behind the last of them as much as anybody wants. `n_bytes` is its largest."""

    def __init__(self, alignment: int) -> None:
        self._alignment = alignment
        self._holes: list[_Hole] = []
        self._end = 0
        self.n_bytes = 0

    def take(self, n_bytes: int) -> int:
        n_bytes = self._aligned(n_bytes)
        fitting = [hole for hole in self._holes if hole.n_bytes >= n_bytes]
        if not fitting:
            offset, self._end = self._end, self._end + n_bytes
            self.n_bytes = max(self.n_bytes, self._end)
            return offset
        best = min(reversed(fitting), key=lambda hole: hole.n_bytes)
        offset = best.offset
        best.offset += n_bytes
        best.n_bytes -= n_bytes
        if not best.n_bytes:
            self._holes.remove(best)
        return offset

    def give_back(self, offset: int, n_bytes: int) -> None:
        """Neighbouring holes become one; the last one joins the open end."""
        self._holes.append(_Hole(offset, self._aligned(n_bytes)))
        self._holes.sort(key=lambda hole: hole.offset)
        joined: list[_Hole] = []
        for hole in self._holes:
            if joined and joined[-1].offset + joined[-1].n_bytes == hole.offset:
                joined[-1].n_bytes += hole.n_bytes
            else:
                joined.append(hole)
        if joined and joined[-1].offset + joined[-1].n_bytes == self._end:
            self._end = joined.pop().offset
        self._holes = joined

    def _aligned(self, n_bytes: int) -> int:
        return -(-n_bytes // self._alignment) * self._alignment
