from __future__ import annotations

from collections.abc import Callable

import pytest

from backends.base import EngineFailure, FailureReason
from backends.vllm.failures import classify, phase

SERVER, ENGINE, WORKER = "(APIServer pid=17002)", "(EngineCore pid=17042)", "(Worker pid=17055)"

START = (
    "Triton is installed, but doesn't include CPU backend. Disabling Triton.",
    f"{SERVER} INFO 11-22 22:49:25 [api_utils.py:347]   █▄█▀ █     █     █     █  model   /m/qwen3",
    f"{SERVER} INFO 11-22 22:49:25 [api_utils.py:286] non-default args: {{'model_tag': '/m/qwen3'}}",
    f"{SERVER} WARNING 11-22 22:49:25 [system_utils.py:255] Found ulimit of 20000 and failed to automatically increase"
    " with error current limit exceeds maximum limit. This can cause fd limit errors like"
    " `OSError: [Errno 24] Too many open files`. Consider increasing with ulimit -n",
    f"{SERVER} INFO 11-22 22:49:25 [model.py:733] Resolved architecture: Qwen3ForCausalLM",
)
SERVER_GAVE_UP = (
    "Traceback (most recent call last):",
    '  File "/v/vllm/v1/engine/utils.py", line 1431, in wait_for_engine_startup',
    "    raise RuntimeError(",
    "RuntimeError: Engine core initialization failed. See root cause above. Failed core proc(s): {'EngineCore': 1}",
)
SERVING = (
    *START,
    f"{ENGINE} INFO 11-22 22:50:01 [kv_cache_utils.py:1500] GPU KV cache size: 46,464 tokens",
    f"{SERVER} INFO:     Application startup complete.",
)


def in_the_server(*lines: str) -> tuple[str, ...]:
    """A start that fails before there is an engine process."""
    traceback = (
        "Traceback (most recent call last):",
        '  File "/v/vllm/entrypoints/cli/main.py", line 126, in <module>',
    )
    return (*START, *traceback, *lines)


def in_the_engine(*lines: str) -> tuple[str, ...]:
    told = ("EngineCore failed to start.", "Traceback (most recent call last):", *lines)
    return (*START, *(f"{ENGINE} ERROR 11-22 22:49:47 [core.py:1136] {line}" for line in told), *SERVER_GAVE_UP)


def in_the_worker(*lines: str) -> tuple[str, ...]:
    told = (f"{WORKER} ERROR 11-22 22:49:47 [multiproc_executor.py:953] {line}" for line in lines)
    symptom = "Exception: WorkerProc initialization failed due to an exception in a background process."
    return (*START, *told, f"{ENGINE} ERROR 11-22 22:49:48 [core.py:1136] {symptom}", *SERVER_GAVE_UP)


NO_SNAPSHOT = "huggingface_hub.errors.LocalEntryNotFoundError: Cannot find an appropriate cached snapshot folder"
NOT_A_REPOSITORY = "huggingface_hub.errors.HFValidationError: Repo id must be in the form 'repo_name': '/nonexistent'"
KV_TOO_SMALL = (
    "ValueError: To serve at least one request with the model's max seq len (131072), (2.81 GiB KV cache is needed,"
    " which is larger than the available KV cache memory (1.0 GiB). Based on the available memory, the estimated"
    " maximum model length is 46464"
)
NOT_ENOUGH_FREE = (
    "ValueError: Free memory on device cuda:0 (3.1/11.6 GiB) on startup is less than desired GPU memory utilization"
    " (0.97, 11.25 GiB). Decrease GPU memory utilization or reduce GPU memory used by other processes."
)
NOT_ENOUGH_FREE_FOR_THE_ENGINE = (
    "ValueError: Free memory on device cuda:0 (3.1/11.6 GiB) on startup is less than the engine's budget after"
    " excluding external process's weights (0.97, 11.25 GiB)."
)


@pytest.mark.parametrize(
    ("log", "line", "reason"),
    [
        (in_the_server, "RuntimeError: Failed to infer device type, please set the environment", "no_gpu"),
        (in_the_engine, "RuntimeError: No CUDA GPUs are available", "no_gpu"),
        (in_the_engine, "RuntimeError: Found no NVIDIA driver on your system.", "no_gpu"),
        (in_the_engine, "ValueError: Triton dequant kernels require CUDA tensors", "no_gpu"),
        (in_the_engine, "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2 GiB", "out_of_memory"),
        (in_the_engine, NOT_ENOUGH_FREE, "out_of_memory"),
        (in_the_worker, NOT_ENOUGH_FREE, "out_of_memory"),
        (in_the_engine, NOT_ENOUGH_FREE_FOR_THE_ENGINE, "out_of_memory"),
        (in_the_engine, "ValueError: No available memory for the cache blocks. Try increasing", "out_of_memory"),
        (in_the_engine, KV_TOO_SMALL, "out_of_memory"),
        (
            in_the_server,
            "  Value error, Unknown quantization method: bitsandbytes. Must be one of [.]",
            "not_installed",
        ),
        (
            in_the_server,
            "OSError: It looks like the config file at 'm.gguf' is not a valid JSON file.",
            "not_installed",
        ),
        (in_the_server, "importlib.metadata.PackageNotFoundError: No package metadata was found", "not_installed"),
        (in_the_engine, "ModuleNotFoundError: No module named 'bitsandbytes'", "not_installed"),
        (in_the_server, "ImportError: libcudart.so.13: cannot open shared object file", "not_installed"),
        (in_the_server, "  Value error, Model architectures ['Foo'] are not supported for now.", "unsupported_model"),
        (in_the_engine, "RuntimeError: Unknown gguf model_type: gemma4", "unsupported_model"),
        (in_the_engine, "RuntimeError: Failed to map GGUF parameters (3): ['a', 'b', 'c']", "unsupported_model"),
        (in_the_engine, "AssertionError: Attempted to load weight (torch.Size([1])) into", "unsupported_model"),
        (in_the_engine, "RuntimeError: size mismatch for k_proj: shape [4, 2]", "unsupported_model"),
        (in_the_server, NOT_A_REPOSITORY, "weights_missing"),
        (in_the_server, NO_SNAPSHOT, "weights_missing"),
        (in_the_server, "ValueError: Unrecognized model in /m. Should have a `model_type` key", "weights_missing"),
        (in_the_server, "huggingface_hub.errors.GatedRepoError: 401 Client Error.", "weights_missing"),
        (in_the_engine, "RuntimeError: Cannot find any model weights with `/m`", "weights_missing"),
        (in_the_server, "OSError: o/n is not a local folder and is not a valid model identifier", "weights_missing"),
        (in_the_server, "huggingface_hub.errors.RepositoryNotFoundError: 404 Client Error.", "weights_missing"),
        (in_the_engine, "ValueError: Unrecognised GGUF reference: o/n (expected local file", "weights_missing"),
        (
            in_the_server,
            "ValueError: The quantization method awq is not supported for the current GPU.",
            "unsupported_model",
        ),
        (
            in_the_server,
            "ValueError: Bfloat16 is only supported on GPUs with compute capability of 8.0",
            "invalid_settings",
        ),
        (in_the_worker, "safetensors.SafetensorError: incomplete metadata, file not fully covered", "weights_damaged"),
        (in_the_engine, "ValueError: cannot reshape array of size 12 into shape (2,144)", "weights_damaged"),
        (
            in_the_server,
            "  User-specified max_model_len (9) is greater than the derived max_model_len",
            "invalid_settings",
        ),
        (in_the_server, "KeyError: 'invalid tool call parser: nope (chose from { hermes })'", "invalid_settings"),
        (in_the_server, "KeyError: 'invalid reasoning parser: nope (chose from { qwen3 })'", "invalid_settings"),
        (in_the_server, "OSError: [Errno 98] Address already in use", "invalid_settings"),
        (in_the_server, "  torch.bfloat16 is not supported for quantization method gguf.", "invalid_settings"),
        (in_the_server, "ValueError: GGUF has precision issues with bfloat16 on Blackwell.", "invalid_settings"),
        (in_the_server, "ValueError: Sleep mode is not supported on current platform.", "invalid_settings"),
        (in_the_engine, "RuntimeError: Tried to register an operator (vllm::apply_bnb_4bit)", "invalid_settings"),
    ],
)
def test_known_line_gives_the_reason_and_is_the_detail(
    log: Callable[[str], tuple[str, ...]], line: str, reason: str
) -> None:
    failure = classify(1, log(line))
    assert failure.reason == reason
    assert failure.detail.rstrip("…") == line.strip()
    assert failure.exit_code == 1


def test_transformers_words_for_an_unknown_model_are_found() -> None:
    line = (
        "The checkpoint you are trying to load has model type 'x' but Transformers does not recognize this architecture"
    )
    assert classify(1, in_the_server(line)).reason is FailureReason.UNSUPPORTED_MODEL


def test_bad_flag_is_the_operators() -> None:
    line = "vllm: error: unrecognized arguments: --nope"
    failure = classify(2, ("usage: vllm [-h] [-v] {chat,complete,serve} ...", line))
    assert (failure.reason, failure.detail) == (FailureReason.INVALID_SETTINGS, line)


def test_unknown_failure_tells_what_the_engine_said_before_the_server_gave_up() -> None:
    failure = classify(1, in_the_engine("ValueError: the true cause"))
    assert failure.reason is FailureReason.CRASHED
    assert failure.detail == "ended with exit code 1: ValueError: the true cause"


def test_the_worker_is_heard_before_those_who_speak_of_it() -> None:
    assert classify(1, in_the_worker("ValueError: the true cause")).detail.endswith(": ValueError: the true cause")


def test_it_does_not_matter_which_pipe_was_read_first() -> None:
    log = in_the_engine("ValueError: the true cause")
    assert classify(1, (*SERVER_GAVE_UP, *log)).detail.endswith(": ValueError: the true cause")


def test_the_warning_about_open_files_is_no_cause() -> None:
    assert classify(1, START).detail == "ended with exit code 1"
    benign = "WARNING ulimit: OSError: [Errno 24] Too many open files"
    assert classify(1, (benign,)).detail == "ended with exit code 1"


def test_an_engine_that_was_killed_while_loading_is_told_with_the_signal() -> None:
    gave_up = SERVER_GAVE_UP[-1].replace("'EngineCore': 1", "'EngineCore': -9")
    after = f"{WORKER} ERROR 11-22 22:49:47 [multiproc_executor.py:953] BrokenPipeError: [Errno 32] Broken pipe"
    failure = classify(1, (*START, gave_up, after))
    assert failure.reason is FailureReason.CRASHED
    assert failure.detail == "its engine process was killed by SIGKILL, perhaps by the kernel for memory"


@pytest.mark.parametrize(
    "line",
    [
        "AsyncLLM output_handler failed.\nvllm.v1.engine.exceptions.EngineDeadError: EngineCore encountered an issue.",
        "[core_client.py:598] Engine core proc EngineCore died unexpectedly, shutting down client.",
    ],
)
def test_exit_code_0_after_the_death_of_the_engine_is_a_crash(line: str) -> None:
    lines = (f"{SERVER} ERROR 11-22 22:55:00 {part}" for part in line.splitlines())
    failure = classify(0, (*SERVING, *lines))
    assert failure.reason is FailureReason.CRASHED
    assert failure.detail == "its engine process died, and it ended with exit code 0"


def test_exit_code_0_is_a_crash_without_any_word() -> None:
    failure = classify(0, ("INFO bye",))
    assert (failure.reason, failure.detail) == (FailureReason.CRASHED, "ended with exit code 0")


def test_a_death_while_serving_tells_what_the_engine_said() -> None:
    cause = "torch.AcceleratorError: CUDA error: an illegal memory access was encountered"
    died = f"{SERVER} ERROR 11-22 22:55:01 [async_llm.py:9] EngineDeadError: EngineCore encountered an issue."
    failure = classify(0, (*SERVING, f"{ENGINE} ERROR 11-22 22:55:00 [core.py:9] {cause}", died))
    assert failure.detail == f"its engine process died, and it ended with exit code 0: {cause}"


def test_memory_that_runs_out_while_serving_is_told_as_such() -> None:
    line = f"{ENGINE} ERROR 11-22 22:55:00 [core.py:9] torch.OutOfMemoryError: CUDA out of memory."
    assert classify(0, (*SERVING, line)).reason is FailureReason.OUT_OF_MEMORY


def test_what_the_server_says_of_requests_is_no_cause_of_a_death() -> None:
    request = f"{SERVER} ERROR 11-22 22:54:00 [serving.py:1] ValueError: a client's own words"
    bare = "jinja2.exceptions.TemplateError: a client's own words"
    failure = classify(-9, (*SERVING, request, bare))
    assert failure.detail == "killed by SIGKILL, perhaps by the kernel for memory"


def test_what_it_dumps_of_requests_is_not_kept() -> None:
    dump = f"{ENGINE} ERROR 11-22 22:55:00 [dump_input.py:9] Dumping scheduler output for model execution: stop=['x']"
    failure = classify(0, (*SERVING, dump))
    assert failure.log_tail == SERVING


@pytest.mark.parametrize(
    "prefix",
    [
        "(EngineCore pid=1) ERROR 11-22 22:49:47 [core.py:1136] ",
        "(EngineCore_DP0 pid=1) ERROR 11-22 22:49:47 [v1/engine/core.py:1136] ",
        "\x1b[0;36m(EngineCore pid=1)\x1b[0;0m ERROR 11-22 22:49:47 [core.py:1136] ",
        "(EngineCore pid=1) ",
        "ERROR 11-22 22:49:47.123 [core.py:1136] ",
    ],
)
def test_what_stands_before_a_line_is_not_part_of_the_detail(prefix: str) -> None:
    assert classify(1, (f"{prefix}ValueError: why",)).detail == "ended with exit code 1: ValueError: why"


def test_a_detail_has_a_bound() -> None:
    assert len(classify(1, (f"ValueError: {'x' * 5000}",)).detail) < 500


def test_the_estimated_length_is_within_the_bound() -> None:
    assert classify(1, in_the_engine(KV_TOO_SMALL)).detail.endswith("46464")


def test_a_failure_is_one_of_the_gateways() -> None:
    assert isinstance(classify(0, ()), EngineFailure)


@pytest.mark.parametrize(
    ("line", "reached"),
    [
        (
            f"{SERVER} INFO 11-22 22:49:25 [model.py:733] Resolved architecture: LlamaForCausalLM",
            "configuration was read",
        ),
        (f"{ENGINE} INFO 11-22 22:49:33 [core.py:133] Initializing a V1 LLM engine (v0.32.0)", "engine process"),
        (f"{WORKER} INFO 11-22 22:49:40 [cpu_model_runner.py:68] Starting to load model /m...", "weights were being"),
        (f"{WORKER} INFO 11-22 22:49:45 [default_loader.py:501] Loading weights took 4.74 seconds", "were loaded"),
        (f"{ENGINE} INFO 11-22 22:49:46 [kv.py:1] CPU KV cache size: 46,464 tokens", "memory was allotted"),
        (
            f"{ENGINE} INFO 11-22 22:49:49 [core.py:1] init engine (profile, create kv cache, warmup model) took 3",
            "warm",
        ),
        (f"{SERVER} INFO 11-22 22:49:50 [launcher.py:1] Starting vLLM server on unix:/x.sock", "being opened"),
        (f"{SERVER} INFO:     Application startup complete.", "no token came"),
        ("INFO nothing known", "still importing"),
    ],
)
def test_a_start_that_takes_too_long_says_how_far_it_came(line: str, reached: str) -> None:
    assert reached in phase((line, "something after it"))


def test_a_start_without_a_word_says_so() -> None:
    assert phase(()) == "it had said nothing"
