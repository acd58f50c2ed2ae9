from __future__ import annotations

from pathlib import Path

import pytest

from tests.weights.gguf_bytes import TensorShape, hyperparameters, model_file
from tests.weights.published_speed import made_model
from weights.gguf_model import GgufModel, read
from weights.token_work import TokenWork, token_work

KIB = 1024


def work(model: GgufModel, context: int = 64, n_prompt: int = 512, types: str = "f16") -> TokenWork:
    return token_work(model, decode_at=context, prompt_from=0, prompt_to=n_prompt, type_k=types, type_v=types)


def n_bytes(model: GgufModel, *names: str) -> int:
    return sum(tensor.n_bytes for tensor in model.tensors if tensor.name in names)


def test_of_the_embeddings_a_token_reads_one_row() -> None:
    model = made_model("qwen3-14b", "Q4_K_M")
    assert work(model).n_weight_bytes == sum(it.n_bytes for it in model.tensors) - n_bytes(model, "token_embd.weight")


def test_embeddings_that_are_the_output_matrix_too_are_read_whole() -> None:
    model = made_model("qwen3-4b", "Q4_K_M")
    assert work(model).n_weight_bytes == sum(it.n_bytes for it in model.tensors)


def test_the_embeddings_of_each_layer_are_looked_up_and_shared_keys_have_no_matrices() -> None:
    model = made_model("gemma-4-e4b", "Q4_K_M")
    idle = [f"blk.{i}.attn_{name}.weight" for i in range(24, 42) for name in ("k", "v", "k_norm")]
    unread = n_bytes(model, "per_layer_token_embd.weight", *idle)
    assert work(model).n_weight_bytes == sum(it.n_bytes for it in model.tensors) - unread
    assert unread / (1 << 30) == pytest.approx(2.19, abs=0.01)


def test_only_the_experts_used_are_read_but_a_step_of_many_tokens_reads_all() -> None:
    model = made_model("qwen3-30b-a3b", "Q4_K_M")
    experts = sum(it.n_bytes for it in model.tensors if "_exps." in it.name)
    found = work(model)
    assert found.n_expert_bytes == pytest.approx(experts * 8 / 128)
    assert found.n_step_bytes - found.n_weight_bytes == pytest.approx(experts * 120 / 128)
    assert (found.quantized_flops + found.float_flops) / 2e9 == pytest.approx(3.3 - 0.62, abs=0.1)  # 3.3 B are active


def test_keys_and_values_are_read_for_every_token_before() -> None:
    assert work(made_model("qwen3-14b", "Q4_K_M"), 10_000).n_kv_bytes == 10_000 * 160 * KIB
    assert work(made_model("qwen3-14b", "Q4_K_M"), 10_000, types="q8_0").n_kv_bytes == 10_000 * 85 * KIB


def test_layers_with_a_window_look_no_further_back() -> None:
    model = made_model("gemma-4-e4b", "Q4_K_M")
    of_a_sliding_layer, of_a_full_layer = 2 * 2 * 256 * 2, 2 * 2 * 512 * 2
    assert work(model, 512).n_kv_bytes == 512 * (35 * of_a_sliding_layer + 7 * of_a_full_layer)
    assert work(model, 8192).n_kv_bytes == 512 * 35 * of_a_sliding_layer + 8192 * 7 * of_a_full_layer


@pytest.mark.parametrize("n_prompt", [1, 100, 512, 513, 4096])
def test_the_mean_token_of_a_prompt_attends_to_the_mean_of_what_is_before(n_prompt: int) -> None:
    model = made_model("gemma-4-e4b", "Q4_K_M")
    sliding = sum(min(i, 512) for i in range(n_prompt)) / n_prompt
    full = (n_prompt - 1) / 2
    expected = 2 * 8 * (35 * sliding * 2 * 256 + 7 * full * 2 * 512)
    assert work(model, n_prompt=n_prompt).attention_flops == pytest.approx(expected, rel=0.01, abs=2e6)


def test_matrices_count_by_their_type_and_the_output_matrix_not_at_all() -> None:
    quantized, half, wide = (work(made_model("llama-2-7b", mix)) for mix in ("Q4_0", "F16", "BF16"))
    n_parameters = 32 * (4 * 4096**2 + 3 * 4096 * 11008)
    assert quantized.quantized_flops == half.half_flops == wide.float_flops == 2 * n_parameters
    assert quantized.half_flops == quantized.float_flops == half.quantized_flops == wide.quantized_flops == 0


def test_layers_for_guessing_ahead_do_no_work(tmp_path: Path) -> None:
    def model(n_guessing: int) -> GgufModel:
        pairs = hyperparameters("glm4moe", block_count=2, nextn_predict_layers=n_guessing)
        tensors: list[TensorShape] = [(f"blk.{i}.attn_q.weight", (64, 64), "F16") for i in range(2)]
        return read(model_file(tmp_path / "model.gguf", pairs, tensors))

    assert work(model(0)).n_weight_bytes == 2 * work(model(1)).n_weight_bytes
    assert work(model(0)).n_kv_bytes == 2 * work(model(1)).n_kv_bytes


def test_a_model_that_says_nonsense_of_its_experts_reads_them_all(tmp_path: Path) -> None:
    for n_experts, n_used in ((0, 0), (4, 8), (4, 0)):
        pairs = hyperparameters("qwen3moe", expert_count=n_experts, expert_used_count=n_used)
        model = read(model_file(tmp_path / "model.gguf", pairs, [("blk.0.ffn_up_exps.weight", (64, 64, 4), "F16")]))
        assert work(model).n_weight_bytes == 64 * 64 * 4 * 2


def test_what_has_no_weights_has_no_work(tmp_path: Path) -> None:
    model = read(model_file(tmp_path / "vocabulary.gguf", hyperparameters("llama")))
    with pytest.raises(ValueError, match=r"vocabulary\.gguf has no weights"):
        work(model)
    with pytest.raises(ValueError, match="q9_0 is no type"):
        work(made_model("qwen3-4b", "Q4_K_M"), types="q9_0")
