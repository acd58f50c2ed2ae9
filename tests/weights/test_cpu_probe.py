from __future__ import annotations

import pytest

from weights.cpu_probe import n_read_bytes

MIB = 1 << 20


@pytest.mark.parametrize(("n_threads", "n_mib"), [(1, 64), (16, 64), (17, 60), (64, 16), (96, 10), (128, 8), (256, 8)])
def test_the_probe_reads_a_gibibyte_at_most_but_8_mib_a_thread_at_least(n_threads: int, n_mib: int) -> None:
    assert n_read_bytes(n_threads) // MIB == n_mib


def test_up_to_128_threads_read_no_more_than_a_gibibyte_together() -> None:
    assert all(n_threads * n_read_bytes(n_threads) <= 1024 * MIB for n_threads in range(1, 129))
