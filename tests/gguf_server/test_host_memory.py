"""Memory of the machine and of processes: real ones, and control groups that a test writes down."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from gguf_server import host_memory

MIB = 1 << 20


NO_LIMIT = {1: str(1 << 62), 2: "max"}
FILES = {1: ("memory.limit_in_bytes", "memory.usage_in_bytes"), 2: ("memory.max", "memory.current")}


def write_group(folder: Path, version: int, *, limit: str, used: int) -> None:
    """A control group with 4 MiB of files in its cache."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, value in zip(FILES[version], (limit, used), strict=True):
        (folder / name).write_text(f"{value}\n")
    prefix = "" if version == 2 else "total_"
    (folder / "memory.stat").write_text(f"anon 5\n{prefix}inactive_file {3 * MIB}\n{prefix}active_file {MIB}\n")


@pytest.mark.parametrize(("version", "line"), [(1, "5:cpu:/\n4:memory:/box/inner\n"), (2, "0::/box/inner\n")])
def test_container_with_a_limit_has_what_the_limit_leaves(version: int, line: str, tmp_path: Path) -> None:
    groups, membership = tmp_path / "groups", tmp_path / "membership"
    root = groups if version == 2 else groups / "memory"
    write_group(root / "box" / "inner", version, limit=NO_LIMIT[version], used=7 * MIB)
    write_group(root / "box", version, limit=str(16 * MIB), used=10 * MIB)
    write_group(root / "another", version, limit=str(MIB), used=0)
    membership.write_text(line)
    assert host_memory.free_bytes(groups=groups, membership=membership) == 10 * MIB


def test_without_a_limit_it_is_what_the_machine_has(tmp_path: Path) -> None:
    membership = tmp_path / "membership"
    nowhere = tmp_path / "nowhere"
    total = psutil.virtual_memory().total
    assert 0 < host_memory.free_bytes(groups=nowhere, membership=nowhere) <= total
    membership.write_text("0::/../../elsewhere\n")
    assert 0 < host_memory.free_bytes(groups=nowhere, membership=membership) <= total


def test_memory_of_a_process_counts_what_is_below_it() -> None:
    before = host_memory.rss_bytes(os.getpid())
    hold = "import sys; held = bytearray(50 << 20); print(flush=True); sys.stdin.read()"
    with subprocess.Popen([sys.executable, "-c", hold], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        child.stdout.readline()
        with_child = host_memory.rss_bytes(os.getpid())
        assert child.pid in host_memory.pids(os.getpid())
        child.communicate()
    assert before is not None
    assert with_child is not None
    assert with_child - before > 45 * MIB
    assert host_memory.rss_bytes(child.pid) is None
