"""What a compute buffer comes to, rule by rule."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from weights.graph_allocator import Device, Graph, Result, buffer_bytes

KIB = 1024
HOST, GPU = Device.HOST, Device.GPU


def host_bytes(graph: Graph) -> int:
    return buffer_bytes(graph)[HOST]


def test_a_result_is_freed_behind_its_last_reader() -> None:
    graph = Graph()
    first = graph.compute(HOST, 4 * KIB)
    second = graph.compute(HOST, 4 * KIB, first)
    third = graph.compute(HOST, 4 * KIB, second)
    graph.compute(HOST, 4 * KIB, third)
    assert host_bytes(graph) == 8 * KIB


def test_what_is_read_again_later_stays() -> None:
    graph = Graph()
    first = graph.compute(HOST, 4 * KIB)
    second = graph.compute(HOST, 4 * KIB, first)
    third = graph.compute(HOST, 4 * KIB, second)
    graph.compute(HOST, 4 * KIB, third, first)
    assert host_bytes(graph) == 12 * KIB


def test_an_operation_in_place_needs_nothing() -> None:
    graph = Graph()
    first = graph.compute(HOST, 4 * KIB)
    graph.compute(HOST, 4 * KIB, first, in_place=True)
    assert host_bytes(graph) == 4 * KIB


def test_nothing_overwrites_what_somebody_else_reads_or_an_output_or_a_view() -> None:
    for is_output, is_view, is_shared in ((True, False, False), (False, True, False), (False, False, True)):
        graph = Graph()
        first = graph.compute(HOST, 4 * KIB, is_output=is_output)
        views, sources = ((first,), ()) if is_view else ((), (first,))
        second = graph.compute(HOST, 4 * KIB, *sources, views=views, in_place=True)
        if is_shared:
            graph.store(HOST, first, second)
        assert host_bytes(graph) == 8 * KIB


def test_the_smallest_hole_that_is_large_enough_is_taken() -> None:
    graph = Graph()
    large = graph.compute(HOST, 8 * KIB)
    between = graph.compute(HOST, KIB)
    small = graph.compute(HOST, 4 * KIB)
    last = graph.compute(HOST, KIB)
    graph.store(HOST, large)
    graph.store(HOST, small)
    into_small = graph.compute(HOST, 4 * KIB)
    into_large = graph.compute(HOST, 8 * KIB)
    graph.store(HOST, between, last, into_small, into_large)
    assert host_bytes(graph) == 14 * KIB


def test_what_the_other_device_computed_is_copied_once() -> None:
    graph = Graph()
    tokens = graph.input(KIB)
    embedded = graph.compute(HOST, 4 * KIB, tokens)
    norm = graph.compute(GPU, 4 * KIB, embedded)
    graph.compute(GPU, 4 * KIB, norm, embedded, in_place=True)
    assert buffer_bytes(graph) == {HOST: 5 * KIB, GPU: 8 * KIB}


def test_a_view_of_what_the_other_device_computed_is_no_view_any_more() -> None:
    graph = Graph()
    embedded = graph.compute(HOST, 4 * KIB)
    graph.compute(GPU, 4 * KIB, views=(embedded,), in_place=True)
    assert buffer_bytes(graph) == {HOST: 4 * KIB, GPU: 4 * KIB}


@given(st.lists(st.tuples(st.integers(0, 4096), st.integers(0, 5), st.booleans(), st.booleans()), max_size=40))
def test_a_buffer_holds_at_least_what_lives_at_once_and_at_most_everything(
    drawn: list[tuple[int, int, bool, bool]],
) -> None:
    graph, results = Graph(), list[Result]()
    for n_bytes, back, in_place, on_gpu in drawn:
        sources = results[-back:] if back else []
        device = GPU if on_gpu else HOST
        results.append(graph.compute(device, n_bytes, *dict.fromkeys(sources), in_place=in_place))
    sizes = buffer_bytes(graph)
    everything = sum(-(-n_bytes // 128) * 128 for n_bytes, *_ in drawn)
    assert max((n_bytes for n_bytes, *_ in drawn), default=0) <= max(sizes.values())
    assert sum(sizes.values()) <= 2 * everything
