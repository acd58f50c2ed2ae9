from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest
from pydantic import TypeAdapter

from bench.servers import peer_builds, presets
from bench.servers.peer_builds import PeerBuilds
from bench.servers.recipes import NotHere, Place, Recipe, prepare
from bench.suites.suite import Part, Suite, TargetSpec
from gguf_server.config import load
from tests.bench.suites.test_suite_run import measured

SPEC: TypeAdapter[TargetSpec] = TypeAdapter(TargetSpec)
MODEL = Path("models/m.gguf")
WORDS = {"name": "words", "kind": "words", "options": {"max_tokens": 4, "is_chat": True}, "streams": [2], "requests": 1}


def recipe(place: Place, *targets: Mapping[str, object]) -> Recipe:
    """Of the last of the targets."""
    part = Part.model_validate(
        {
            "name": "p",
            "n_parallel": 4,
            "n_ctx_seq": 512,
            "end_token_ids": [0, 2],
            "targets": targets,
            "workloads": [WORDS],
        }
    )
    return prepare(part, part.targets[-1], place, MODEL)


@pytest.fixture
def place(tmp_path: Path) -> Place:
    """With every peer in it, as far as a look at the files can tell."""
    builds = PeerBuilds(tmp_path, tmp_path / "vllm" / "python", tmp_path / "model")
    for path in (builds.llama_server, builds.llama_cpp_python, builds.litellm, tmp_path / "vllm" / "python"):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").touch()
    return Place(tmp_path, builds, threads=3)


def line_of(found: Recipe) -> str:
    assert found.server is not None
    return " ".join(found.server.argv)


def test_worker_and_peers_get_the_same_model_threads_sequences_and_context(place: Place) -> None:
    worker = line_of(recipe(place, {"kind": "worker", "name": "w", "args": ["--n-batch", "64"]}))
    assert "--model models/m.gguf" in worker
    assert "--threads 3 --n-parallel 4 --n-ctx 512 --n-batch 64" in worker
    peer = line_of(recipe(place, {"kind": "llama-server", "name": "p"}))
    assert "--model models/m.gguf --threads 3 --threads-batch 3 --parallel 4 --ctx-size 2048" in peer
    classic = recipe(place, {"kind": "llama_cpp.server", "name": "p"})
    assert "--model models/m.gguf --n_threads 3 --n_threads_batch 3 --n_ctx 512" in line_of(classic)
    assert classic.target.extra_fields == {"logit_bias": {"0": -100, "2": -100}}
    vllm = recipe(place, {"kind": "vllm-cpu", "name": "p"})
    assert "--max-model-len 512 --max-num-seqs 4" in line_of(vllm)
    assert vllm.server is not None
    assert len(vllm.server.environment["VLLM_CPU_OMP_THREADS_BIND"].split(",")) <= 3
    assert vllm.file == place.folder / "model" / "model.safetensors"


def test_no_key_is_on_a_command_line_or_in_a_configuration(place: Place) -> None:
    worker: dict[str, object] = {"kind": "worker", "name": "w"}
    for kind in ("gateway", "litellm"):
        found = recipe(place, worker, {"kind": kind, "name": kind, "behind": "w"})
        [behind] = found.behind
        written = "".join(path.read_text() for path in place.folder.iterdir() if path.is_file())
        for key in (found.target.key, behind.target.key):
            assert key
            assert key not in line_of(found) + " ".join(behind.argv) + written
        assert behind.target.url in written


def test_a_proxy_has_an_engine_of_its_own(place: Place) -> None:
    worker = {"kind": "worker", "name": "w"}
    found = recipe(place, worker, {"kind": "gateway", "name": "g", "behind": "w"})
    [behind] = found.behind
    assert (behind.target.name, found.target.model) == ("w behind g", "m")
    assert behind.target.url != recipe(place, worker).target.url
    twice = recipe(place, worker, {"kind": "gateway", "name": "g", "behind": "w"},
                   {"kind": "litellm", "name": "l", "behind": "g"})  # fmt: skip
    assert [server.target.name for server in twice.behind] == ["w behind g behind l", "g behind l"]


def test_a_preset_is_served_as_the_gateway_reads_it_with_one_engine(place: Place) -> None:
    found = recipe(place, {"kind": "preset", "name": "q", "preset": "qwen3", "engine": "vllm"})
    settings = load(place.folder / "q.toml", environ={})
    [service] = settings.services.values()
    preset = load(presets=["qwen3"], environ={}).services["qwen3"]
    assert service.engines == preset.engines[:1]
    assert (service.weights, service.max_model_len, service.sampling) == (preset.weights, 14384, preset.sampling)
    assert (found.engine, found.n_ctx_seq, found.n_parallel) == ("vllm", 14384, 4)
    assert "vllm" not in line_of(found)


def test_the_operators_own_configuration_says_where_vllm_and_the_weights_are(tmp_path: Path) -> None:
    own = tmp_path / "own.toml"
    engine = '[[services.ward.engines]]\nkind = "vllm"\npython = "/opt/python"\n'
    own.write_text(f'[services.ward]\npreset = "qwen3"\nweights = "/models/q.gguf"\n{engine}')
    service = presets.with_one_engine(presets.read_service("qwen3", own), "vllm", None)
    assert service["weights"] == "/models/q.gguf"
    assert service["engines"][0]["python"] == "/opt/python"


def test_an_engine_that_no_preset_has_is_told_with_those_there_are(place: Place) -> None:
    wanted: dict[str, object] = {"kind": "preset", "name": "q", "preset": "demo", "engine": "vllm"}
    with pytest.raises(NotHere, match="smollm2-135m has no engine vllm; it has llamacpp auto"):
        recipe(place, wanted)
    with pytest.raises(NotHere, match="unknown preset 'dmeo'"):
        recipe(place, {**wanted, "preset": "dmeo"})


@pytest.mark.parametrize("kind", ["llama-server", "llama_cpp.server", "vllm-cpu", "litellm"])
def test_a_peer_that_is_not_built_is_told_with_what_builds_it(kind: str, tmp_path: Path) -> None:
    missing = PeerBuilds(tmp_path).missing(kind)
    assert missing is not None
    assert "make bench-peers" in missing or "python -m bench.peers build" in missing


async def test_the_gateway_is_measured_in_front_of_a_server_that_computes_nothing(tmp_path: Path) -> None:
    targets = [
        {"kind": "upstream", "name": "nothing"},
        {"kind": "gateway", "name": "gateway", "behind": "nothing"},
        {"kind": "preset", "name": "no vLLM", "preset": "qwen3", "engine": "vllm"},
    ]
    part = {"name": "p", "targets": targets, "workloads": [WORDS]}
    suite = Suite.model_validate({"name": "s", "title": "S", "repetitions": 1, "parts": [part]})
    report, _ = await measured(suite, tmp_path)
    rows = {run.target: run for run in report.runs}
    assert rows["nothing"].figures["output_tok"] == rows["gateway"].figures["output_tok"] == 8
    assert rows["no vLLM"].error_kinds == {"server_not_ready": 1}
    assert report.notes[0].startswith("no vLLM: not_installed: ")
    versions = {target.name: target.engine_version for target in report.targets}
    assert (versions["gateway"] or "").startswith("gguf-server ")


def test_a_configuration_of_litellm_names_the_variables_that_hold_the_keys(place: Place) -> None:
    recipe(place, {"kind": "worker", "name": "w"}, {"kind": "litellm", "name": "l", "behind": "w"})
    text = (place.folder / "l.yaml").read_text()
    assert '"master_key":"os.environ/LITELLM_MASTER_KEY"' in text
    assert '"model":"openai/m"' in text


def test_peers_that_are_built_are_not_built_again(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_args: object, **_more: object) -> None:
        raise AssertionError("it was built already")

    for path in (place.peers.llama_batched_bench, place.folder / "llama-cpp-python-venv" / "made-of.txt"):
        path.touch()
    (place.folder / "litellm-venv" / "made-of.txt").touch()
    monkeypatch.setattr("subprocess.run", refuse)
    peer_builds.build(place.peers, "0.3.36", jobs=1)
    peer_builds.build_litellm(place.peers, "1.106.2")


def test_building_tells_what_is_not_installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    with pytest.raises(FileNotFoundError, match="cmake is not installed"):
        peer_builds.build(PeerBuilds(tmp_path), "0.3.36", jobs=1)
