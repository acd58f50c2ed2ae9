"""Every flag of every variation, parsed by the parser of `vllm serve` itself; nothing is loaded."""

from __future__ import annotations

import json
import os
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from backends.vllm.argv import argv, on_port, on_socket
from backends.vllm.spec import VllmSpec
from gguf_server import config, engines
from gguf_server.settings.engines import VllmEngineSettings

PRESETS = ("qwen3", "qwen3-awq", "gemma4", "gemma4-qat", "qwen2.5")
WRONG = {
    "unknown flag": ("--no-such-flag",),
    "old switch": ("--guided-decoding-backend", "x"),
    "not a number": ("--max-num-seqs", "many"),
    "old form of a limit": ("--limit-mm-per-prompt", "image=1"),
    "unknown type": ("--dtype", "q4_0"),
}
EVERYTHING = VllmSpec(
    model="/m/x.gguf",
    names=("x",),
    max_model_len=1024,
    max_num_seqs=2,
    tokenizer="o/n",
    hf_config_path="o/n",
    kv_cache_dtype="fp8",
    dtype="float16",
    quantization="bitsandbytes",
    reasoning_parser="qwen3",
    tool_call_parser="hermes",
    images_per_prompt=2,
    enforce_eager=True,
    extra_args=("--seed", "1"),
)

# Reads lines of arguments after `serve` as JSON; writes for each what was parsed, or why not.
PARSE = """
import contextlib, io, json, sys
from vllm.entrypoints.cli import serve
answers = []
for line in json.load(sys.stdin):
    parser = serve.FlexibleArgumentParser()
    serve.ServeSubcommand().subparser_init(parser.add_subparsers(dest="subparser"))
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said):
            answers.append({"parsed": vars(parser.parse_args(line))})
    except SystemExit as end:
        answers.append({"status": end.code, "error": said.getvalue()[-1000:]})
print("ANSWERS " + json.dumps(answers, default=str))
"""


@dataclass(frozen=True, slots=True)
class Parsed:
    """Of one interpreter: what became of each line, by its name."""

    lines: dict[str, dict[str, Any]]

    def of(self, name: str) -> dict[str, Any]:
        answer = self.lines[name]
        assert "parsed" in answer, answer
        parsed: dict[str, Any] = answer["parsed"]
        return parsed


def spec_of(preset: str) -> VllmSpec:
    service = config.load(presets=[preset], environ={}).services[preset]
    engine = service.engines[0]
    assert isinstance(engine, VllmEngineSettings)
    return engines._vllm_spec(engine, service, Path("/run"))


def lines() -> dict[str, tuple[str, ...]]:
    """What follows the name of the program."""
    specs = {preset: spec_of(preset) for preset in PRESETS}
    said = {name: argv(spec, python="", model=spec.model, listen=on_port(8101)) for name, spec in specs.items()}
    said["everything"] = argv(EVERYTHING, python="", model="/m/x.gguf", listen=on_socket("/run/x.sock"))
    said |= {name: (*said["qwen3"], *wrong) for name, wrong in WRONG.items()}
    return {name: line[3:] for name, line in said.items()}


@pytest.fixture(scope="module", params=["plain_python", "cuda_python"])
def parsed(request: pytest.FixtureRequest) -> Parsed:
    python: Path = request.getfixturevalue(request.param)
    asked = lines()
    answer = subprocess.run(
        [str(python), "-c", PARSE],
        input=json.dumps(list(asked.values())),
        env={**os.environ, "VLLM_TARGET_DEVICE": "cpu", "VLLM_PLUGINS": ""},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert answer.returncode == 0, answer.stderr[-2000:]
    (told,) = (line for line in answer.stdout.splitlines() if line.startswith("ANSWERS "))
    return Parsed(dict(zip(asked, json.loads(told.removeprefix("ANSWERS ")), strict=True)))


@pytest.mark.parametrize("preset", PRESETS)
def test_the_command_line_of_a_preset_is_understood(parsed: Parsed, preset: str) -> None:
    spec, understood = spec_of(preset), parsed.of(preset)
    assert understood["model_tag"] == spec.model
    assert understood["served_model_name"] == list(spec.names)
    assert (understood["host"], understood["port"]) == ("127.0.0.1", 8101)
    assert (understood["max_model_len"], understood["max_num_seqs"]) == (spec.max_model_len, spec.max_num_seqs)
    assert understood["gpu_memory_utilization"] == spec.gpu_memory_utilization
    assert understood["dtype"] == spec.dtype
    assert understood["enforce_eager"] is spec.enforce_eager
    assert understood["tool_call_parser"] == spec.tool_call_parser
    assert understood["enable_auto_tool_choice"] is True
    assert understood["disable_uvicorn_access_log"] is True
    assert understood["enable_log_requests"] is False


def test_bitsandbytes_alone_is_asked_for(parsed: Parsed) -> None:
    asked = {preset: parsed.of(preset)["quantization"] for preset in PRESETS}
    assert asked == {**dict.fromkeys(PRESETS), "gemma4": "bitsandbytes"}


def test_images_are_limited_and_never_fetched(parsed: Parsed) -> None:
    understood = parsed.of("gemma4")
    assert understood["limit_mm_per_prompt"] == {"image": 1, "audio": 0, "video": 0}
    assert understood["allowed_media_domains"] == ["none.invalid"]


def test_every_setting_there_is_can_be_said_at_once(parsed: Parsed) -> None:
    understood = parsed.of("everything")
    assert understood["uds"] == "/run/x.sock"
    assert (understood["tokenizer"], understood["hf_config_path"]) == ("o/n", "o/n")
    assert (understood["kv_cache_dtype"], understood["seed"]) == ("fp8", 1)


@pytest.mark.parametrize("name", WRONG)
def test_what_is_wrong_is_refused(parsed: Parsed, name: str) -> None:
    answer = parsed.lines[name]
    assert answer["status"] == 2
    assert "error: " in answer["error"]
