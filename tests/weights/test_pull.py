"""Pulls by the real client from a hub that may do anything: what arrives, and what is said when it does not."""

from __future__ import annotations

import errno
import hashlib
import os
import random
import shutil
import socket
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
from filelock import FileLock
from huggingface_hub import constants, snapshot_download

from tests.weights.conftest import point_to
from tests.weights.hub import COMMIT, Hub, Repo
from weights.errors import AlteredInTransit, HubUnreachable, NoSpace, PullFailed, WeightsDamaged, WeightsMissing
from weights.pull import make_plan, pull
from weights.reference import Hub as HubReference
from weights.reference import HubFile, HubQuant, HubRepo
from weights.refs import resolve, resolve_repo

MODEL = random.Random(1).randbytes(400_000)
SECOND = random.Random(2).randbytes(300_000)
WANTED = HubFile("own/repo", "m-Q4_K_M.gguf")
SPLIT = ("s-q8_0-00001-of-00002.gguf", "s-q8_0-00002-of-00002.gguf")


class Seen:
    """A display that remembers."""

    def __init__(self) -> None:
        self.begun: list[tuple[str, int, bool]] = []
        self.reached: list[int] = []

    def begin(self, name: str, n_bytes: int, *, is_check: bool) -> None:
        self.begun.append((name, n_bytes, is_check))

    def reach(self, n_bytes: int) -> None:
        self.reached.append(n_bytes)


@pytest.fixture
def repo(hub: Hub) -> Repo:
    hub.repos["own/repo"] = Repo({"m-Q4_K_M.gguf": MODEL, "README.md": b"words"})
    return hub.repos["own/repo"]


def bring(*wanted: HubReference) -> Seen:
    seen = Seen()
    pull(make_plan(wanted), seen)
    return seen


def failure(*wanted: HubReference) -> str:
    with pytest.raises(PullFailed) as caught:
        bring(*wanted)
    return str(caught.value)


@pytest.mark.usefixtures("repo")
def test_a_file_that_was_pulled_is_found_whole_in_the_usual_cache(hub: Hub, cache: Path) -> None:
    seen = bring(WANTED)
    path = resolve(str(WANTED))
    assert path == cache / "models--own--repo" / "snapshots" / COMMIT / "m-Q4_K_M.gguf"
    assert path.read_bytes() == MODEL
    assert seen.begun == [("m-Q4_K_M.gguf", len(MODEL), False)]
    assert seen.reached == sorted(seen.reached)
    assert seen.reached[-1] == len(MODEL)
    assert snapshot_download("own/repo", allow_patterns="*.gguf", local_files_only=True) == str(path.parent)
    assert len(hub.contents("m-Q4_K_M.gguf")) == 1


@pytest.mark.usefixtures("repo")
def test_what_is_here_is_not_fetched_again(hub: Hub) -> None:
    bring(WANTED)
    assert bring(WANTED).begun == []
    assert make_plan([WANTED]).n_missing_bytes == 0
    assert len(hub.contents("m-Q4_K_M.gguf")) == 1


@pytest.mark.usefixtures("repo")
def test_a_download_that_is_cut_goes_on_where_it_was(hub: Hub) -> None:
    hub.faults.cut_after["m-Q4_K_M.gguf"] = [150_000, 50_000, 0, 50_000, 50_000]  # more often than it may bring nothing
    bring(WANTED)
    assert resolve(str(WANTED)).read_bytes() == MODEL
    asked = [asked.range for asked in hub.contents("m-Q4_K_M.gguf")]
    assert asked == [None, *(f"bytes={n}-" for n in (150_000, 200_000, 200_000, 250_000, 300_000))]


@pytest.mark.usefixtures("repo")
def test_a_slow_download_is_waited_for_and_shown_as_it_goes(hub: Hub) -> None:
    class Watching(Seen):
        def reach(self, n_bytes: int) -> None:
            super().reach(n_bytes)
            if n_bytes == 100_000:  # the hub sends no more until this was seen
                hub.release()

    hub.faults.held["m-Q4_K_M.gguf"] = 100_000
    seen = Watching()
    pull(make_plan([WANTED]), seen)
    assert 100_000 in seen.reached
    assert resolve(str(WANTED)).read_bytes() == MODEL


@pytest.mark.usefixtures("repo")
def test_what_came_before_a_failure_is_kept_for_the_next_pull(hub: Hub) -> None:
    hub.faults.cut_after["m-Q4_K_M.gguf"] = [150_000, 0, 0, 0]
    assert "cannot be reached" in failure(WANTED)
    with pytest.raises(WeightsMissing, match=r"gguf-server pull hf:own/repo/m-Q4_K_M\.gguf"):
        resolve(str(WANTED))
    assert make_plan([WANTED]).n_missing_bytes == len(MODEL) - 150_000
    seen = bring(WANTED)
    assert hub.contents("m-Q4_K_M.gguf")[-1].range == "bytes=150000-"
    assert seen.reached[0] == 150_000
    assert resolve(str(WANTED)).read_bytes() == MODEL


@pytest.mark.usefixtures("repo")
def test_a_hub_that_knows_no_ranges_begins_anew(hub: Hub) -> None:
    hub.faults.cut_after["m-Q4_K_M.gguf"] = [150_000]
    hub.faults.ignores_range = True
    bring(WANTED)
    assert resolve(str(WANTED)).read_bytes() == MODEL


@pytest.mark.usefixtures("repo")
def test_what_has_a_wrong_checksum_never_gets_into_the_cache(hub: Hub, cache: Path) -> None:
    hub.faults.sent_instead["m-Q4_K_M.gguf"] = b"x" + MODEL[1:]
    with pytest.raises(AlteredInTransit, match="another checksum"):
        bring(WANTED)
    assert not list(cache.rglob("m-Q4_K_M.gguf"))
    assert not list(cache.rglob("blobs/*"))


@pytest.mark.usefixtures("repo")
def test_a_part_that_went_bad_on_the_disk_is_fetched_anew(hub: Hub, cache: Path) -> None:
    hub.faults.cut_after["m-Q4_K_M.gguf"] = [150_000, 0, 0, 0]
    failure(WANTED)
    (part,) = cache.rglob("*.incomplete")
    part.write_bytes(b"x" * 150_000)
    bring(WANTED)
    assert resolve(str(WANTED)).read_bytes() == MODEL


@pytest.mark.usefixtures("repo")
def test_more_than_was_announced_is_refused(hub: Hub) -> None:
    hub.faults.sent_instead["m-Q4_K_M.gguf"] = MODEL + b"more"
    assert "more came than the 400000 bytes announced" in failure(WANTED)


@pytest.mark.usefixtures("repo")
def test_a_hub_that_is_busy_for_a_moment_is_asked_again(hub: Hub) -> None:
    hub.faults.statuses["m-Q4_K_M.gguf"] = [503, 429]
    bring(WANTED)
    assert resolve(str(WANTED)).read_bytes() == MODEL


@pytest.mark.usefixtures("repo")
def test_a_hub_that_sends_nothing_is_given_up(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_DOWNLOAD_TIMEOUT", 0.05)
    hub.faults.stalled.add("m-Q4_K_M.gguf")
    assert "did not answer in time" in failure(WANTED)


@pytest.mark.usefixtures("repo")
@pytest.mark.parametrize(("status", "says"), [(403, "refuses it"), (404, "no such file"), (500, "answers 500")])
def test_a_refusal_is_told_without_an_address(hub: Hub, status: int, says: str) -> None:
    hub.faults.statuses["m-Q4_K_M.gguf"] = [status] * 9
    told = failure(WANTED)
    assert says in told
    assert "content" not in told


def test_a_private_repository_is_read_with_the_token(hub: Hub, repo: Repo, monkeypatch: pytest.MonkeyPatch) -> None:
    repo.token = "hf_secret"
    assert "set HF_TOKEN to a token" in failure(WANTED)
    monkeypatch.setenv("HF_TOKEN", "hf_wrong")
    told = failure(WANTED)
    assert "the token in HF_TOKEN may not read it" in told
    assert "hf_wrong" not in told
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    bring(WANTED)
    assert resolve(str(WANTED)).read_bytes() == MODEL
    assert not any(asked.has_token for asked in hub.contents("m-Q4_K_M.gguf"))  # another host's business


def test_a_licence_that_must_be_accepted_is_told(repo: Repo) -> None:
    repo.gated = True
    assert "accepted its licence on its page" in failure(WANTED)


@pytest.mark.usefixtures("repo")
@pytest.mark.parametrize(
    ("wanted", "says"),
    [
        (HubFile("own/other", "m.gguf"), "no such repository, or it is private"),
        (replace(WANTED, revision="v9"), "no such revision"),
    ],
)
def test_what_the_hub_does_not_have_is_told(wanted: HubFile, says: str) -> None:
    assert says in failure(wanted)


@pytest.mark.usefixtures("repo")
def test_a_file_that_is_not_there_is_told_with_those_that_are() -> None:
    with pytest.raises(WeightsMissing, match=r"no such file; it has m-Q4_K_M.gguf"):
        make_plan([HubFile("own/repo", "m-q4_k_m.gguf")])


def test_a_hub_that_cannot_be_reached_is_told_with_ways_out(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        point_to(f"http://me:secret@127.0.0.1:{closed.getsockname()[1]}", monkeypatch)
        with pytest.raises(HubUnreachable) as caught:
            make_plan([WANTED])
    told = str(caught.value)
    assert all(word in told for word in ("cannot be reached", "HTTPS_PROXY", "HF_ENDPOINT", "HF_HOME"))
    assert "secret" not in told


@pytest.mark.usefixtures("repo")
def test_offline_mode_asks_nobody(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(HubUnreachable, match="HF_HUB_OFFLINE"):
        make_plan([WANTED])
    assert hub.asked == []


@pytest.mark.usefixtures("repo")
def test_too_little_space_is_told_before_the_first_byte(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=100_000))
    with pytest.raises(NoSpace, match="GB free"):
        bring(WANTED)
    assert hub.contents("m-Q4_K_M.gguf") == []


@pytest.mark.usefixtures("repo")
def test_a_disk_that_fills_up_meanwhile_is_told_and_what_came_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as full:
        full.setattr(os, "fsync", fail)
        with pytest.raises(NoSpace, match="is full; what came is kept"):
            bring(WANTED)
    assert make_plan([WANTED]).n_missing_bytes == 0
    bring(WANTED)
    assert resolve(str(WANTED)).read_bytes() == MODEL


@pytest.mark.usefixtures("repo")
def test_a_file_that_another_program_fetches_is_left_to_it(cache: Path) -> None:
    name = hashlib.sha256(MODEL).hexdigest() + ".lock"
    (cache / ".locks" / "models--own--repo").mkdir(parents=True)
    with FileLock(cache / ".locks" / "models--own--repo" / name):
        assert "is being fetched by another program" in failure(WANTED)


@pytest.mark.usefixtures("repo")
def test_a_disk_without_links_is_served_as_well(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_SYMLINKS", True)
    bring(WANTED)
    path = resolve(str(WANTED))
    assert not path.is_symlink()
    path.write_bytes(MODEL[:-1])
    with pytest.raises(WeightsDamaged, match="399999 of 400000"):
        resolve(str(WANTED))
    bring(WANTED)
    assert resolve(str(WANTED)).read_bytes() == MODEL


def test_a_split_model_is_pulled_with_all_its_parts(hub: Hub) -> None:
    hub.repos["own/split"] = Repo(dict(zip(SPLIT, (MODEL, SECOND), strict=True)))
    bring(HubQuant("own/split", "Q8_0"))
    first = resolve("hf:own/split:Q8_0")
    assert first == resolve(f"hf:own/split/{SPLIT[0]}")
    assert first.read_bytes() == MODEL
    assert first.with_name(SPLIT[1]).read_bytes() == SECOND


def test_a_whole_repository_is_what_vllm_reads_of_it(hub: Hub, cache: Path) -> None:
    files = {"config.json": b"{}", "tokenizer.json": b"{}", "model.safetensors": MODEL, "picture.png": b"p"}
    hub.repos["own/llm"] = Repo({**files, "pytorch_model.bin": SECOND, "original/params.json": b"{}"})
    bring(HubRepo("own/llm", with_weights=False))
    with pytest.raises(WeightsMissing):
        resolve_repo(HubRepo("own/llm"))
    bring(HubRepo("own/llm"))
    folder = resolve_repo(HubRepo("own/llm"))
    assert sorted(path.name for path in folder.iterdir()) == ["config.json", "model.safetensors", "tokenizer.json"]


def test_a_newer_revision_leaves_what_it_does_not_replace(repo: Repo) -> None:
    repo.files["other.gguf"] = SECOND
    bring(WANTED)
    repo.commit = "2" * 40
    bring(HubFile("own/repo", "other.gguf"))
    assert resolve("hf:own/repo/other.gguf").parent.name == "2" * 40
    assert resolve(str(WANTED)).parent.name == COMMIT
    assert resolve(f"{WANTED}@{COMMIT}").read_bytes() == MODEL


def test_a_tag_is_pulled_and_found_under_its_name(repo: Repo) -> None:
    tagged = replace(WANTED, revision="v1")
    bring(tagged)
    assert resolve(str(tagged)).read_bytes() == MODEL


@pytest.mark.usefixtures("repo")
@pytest.mark.parametrize("change", [lambda content: content[:-1], lambda content: content[:9] + b"x" + content[10:]])
def test_a_file_that_was_cut_short_or_altered_is_not_loaded_and_a_pull_mends_it(change) -> None:  # type: ignore[no-untyped-def]
    bring(WANTED)
    blob = resolve(str(WANTED)).resolve()
    blob.write_bytes(change(MODEL))
    with pytest.raises(WeightsDamaged, match=r"gguf-server pull hf:own/repo/m-Q4_K_M\.gguf"):
        resolve(str(WANTED))
    bring(WANTED)
    assert resolve(str(WANTED)).read_bytes() == MODEL


@pytest.mark.usefixtures("repo")
def test_what_another_program_fetched_is_checked_once(monkeypatch: pytest.MonkeyPatch) -> None:
    snapshot_download("own/repo", allow_patterns="*.gguf")
    assert [begun[2] for begun in bring(WANTED).begun] == [True]
    monkeypatch.setattr("weights.hub_cache.checksum_of", None)
    assert resolve(str(WANTED)).read_bytes() == MODEL


@pytest.mark.usefixtures("repo")
@pytest.mark.parametrize(
    "line",
    [
        {"type": "file", "path": "../../x.gguf", "size": 1, "oid": "0" * 40},
        {"type": "file", "path": "/x.gguf", "size": 1, "oid": "0" * 40},
        {"type": "file", "path": "x\x1b[31m.gguf", "size": 1, "oid": "0" * 40},
        {"type": "file", "path": "x.gguf", "size": -1, "oid": "0" * 40},
        {"type": "file", "path": "x.gguf", "size": 1, "oid": "../../../x"},
        {"type": "file", "path": "x.gguf", "size": "1", "oid": "0" * 40},
        {"type": "file", "path": "x.gguf"},
        {"type": "file", "path": "x.gguf", "size": 1, "oid": "0" * 40, "lfs": "yes"},
        "no line",
    ],
)
def test_a_listing_that_cannot_be_is_refused(hub: Hub, line: object) -> None:
    hub.faults.announces["README.md"] = line
    assert "what answers at http://127.0.0.1" in failure(WANTED)


@pytest.mark.usefixtures("repo")
def test_a_page_in_place_of_an_answer_is_told(hub: Hub) -> None:
    hub.faults.speaks_html = True
    assert "does not speak as the hub does" in failure(WANTED)


@pytest.mark.usefixtures("repo")
def test_a_file_over_the_limit_of_http_names_another_way(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "MAX_HTTP_DOWNLOAD_SIZE", 1000)
    assert "hf download own/repo m-Q4_K_M.gguf" in failure(WANTED)
