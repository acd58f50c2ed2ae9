from __future__ import annotations

import asyncio
import os
from pathlib import Path
from unittest.mock import Mock

import pytest

from gguf_server import run
from gguf_server.reload.source import Source
from gguf_server.reload.watch import Changes, signature, watch


def test_a_change_is_told_once_and_when_it_is_at_rest() -> None:
    a, b, c = (("f", 1, 1, 1),), (("f", 2, 1, 1),), (("f", 3, 1, 1),)
    changes = Changes(a)
    assert [changes.look(now) for now in (a, b, c, c, c, a, a)] == [False, False, False, True, False, False, True]


def test_what_was_undone_before_anybody_looked_twice_is_no_change() -> None:
    a, b = (("f", 1, 1, 1),), (("f",),)
    changes = Changes(a)
    assert [changes.look(now) for now in (b, a, a)] == [False, False, False]


def test_a_file_that_comes_goes_or_is_replaced_is_a_change(tmp_path: Path) -> None:
    path, other = tmp_path / "a.toml", tmp_path / "b.toml"
    seen = [signature([path])]
    path.write_text("one")
    seen.append(signature([path]))
    other.write_text("one")
    os.utime(other, ns=(path.stat().st_atime_ns, path.stat().st_mtime_ns))
    other.replace(path)
    seen.append(signature([path]))
    path.unlink()
    seen.append(signature([path]))
    assert seen[0] == seen[3]
    assert len(set(seen)) == 3


async def test_a_file_is_watched(tmp_path: Path) -> None:
    path, changed = tmp_path / "a.toml", asyncio.Event()
    watching = asyncio.create_task(watch(lambda: [path], changed.set, every_s=0.001))
    await asyncio.sleep(0)  # it has seen that there is no file
    path.write_text("one")
    async with asyncio.timeout(5):
        await changed.wait()
    watching.cancel()
    await asyncio.wait([watching])


def test_the_files_are_those_the_settings_came_from(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("GGUF_SERVER_CONFIG", raising=False)
    demo = Source()
    assert [path.name for path in demo.files(demo.load())] == ["gguf-server.toml", "demo.toml"]
    assert [path.name for path in Source(presets=("qwen3",)).files(Source(presets=("qwen3",)).load())] == ["qwen3.toml"]
    (tmp_path / "own.toml").write_text('[services.x]\npreset = "demo"\n')
    own = Source(Path("own.toml"))
    assert [path.name for path in own.files(own.load())] == ["own.toml", "demo.toml"]


@pytest.mark.parametrize(("was", "is_now", "ends"), [(True, False, True), (True, True, False), (False, False, False)])
async def test_a_hangup_is_a_reload_unless_the_terminal_is_gone(
    was: bool, is_now: bool, ends: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "isatty", lambda _fd: is_now)
    reloader, stop = Mock(), asyncio.Event()
    run._hang_up(reloader, stop, was_on_terminal=was)
    assert stop.is_set() is ends
    assert reloader.ask.called is not ends
