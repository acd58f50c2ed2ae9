"""From the GGUF of SmolLM2 to the stand-in for a thinking model, run by the interpreter of `.vllm/plain`:

    python -m tests.vllm.convert SOURCE.gguf TEMPLATE.jinja FOLDER

It makes FOLDER/thinker, which vLLM reads, and FOLDER/thinker.gguf, the same model for llama.cpp.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from gguf.quants import dequantize
from safetensors.torch import save_file
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

from tests.vllm.stand_in import CONTROL, EMBEDDING, TEMPLATE, TOKENS, TYPES, USER_DEFINED, Source, write_gguf

LAYER_PARTS = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}


def write_folder(source: Source, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    save_file(dict(weights(source)), folder / "model.safetensors", metadata={"format": "pt"})
    tokenizer(source).save(str(folder / "tokenizer.json"))
    ids = {name: source[f"tokenizer.ggml.{name}"] for name in ("bos_token_id", "eos_token_id")}
    files = {
        "config.json": {**model_config(source), **ids},
        "generation_config.json": ids,
        "tokenizer_config.json": tokenizer_config(source, ids),
    }
    for name, content in files.items():
        (folder / name).write_text(json.dumps(content, indent=1))


def weights(source: Source) -> Iterator[tuple[str, torch.Tensor]]:
    """Hugging Face's name and bfloat16 weights of each tensor."""
    heads = {"attn_q": source.llama("attention.head_count"), "attn_k": source.llama("attention.head_count_kv")}
    whole = {"token_embd": "model.embed_tokens", "output_norm": "model.norm"}
    for tensor in source.reader.tensors:
        is_embedding = tensor.name == EMBEDDING
        values = torch.tensor(source.embedding if is_embedding else dequantize(tensor.data, tensor.tensor_type))
        name = tensor.name.removesuffix(".weight")
        if name in whole:
            name = whole[name]
        else:
            _, number, part = name.split(".")
            if part in heads:
                values = in_halves(values, heads[part])
            name = f"model.layers.{number}.{LAYER_PARTS[part]}"
        yield f"{name}.weight", values.to(torch.bfloat16).contiguous()


def in_halves(values: torch.Tensor, n_heads: int) -> torch.Tensor:
    """llama.cpp keeps the two rows that a rotation turns side by side, Hugging Face in the two halves of a head."""
    n_rows, n_columns = values.shape
    return values.reshape(n_heads, n_rows // n_heads // 2, 2, n_columns).swapaxes(1, 2).reshape(n_rows, n_columns)


def model_config(source: Source) -> dict[str, Any]:
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_size": source.llama("embedding_length"),
        "intermediate_size": source.llama("feed_forward_length"),
        "num_hidden_layers": source.llama("block_count"),
        "num_attention_heads": source.llama("attention.head_count"),
        "num_key_value_heads": source.llama("attention.head_count_kv"),
        "max_position_embeddings": source.llama("context_length"),
        "rms_norm_eps": round(source.llama("attention.layer_norm_rms_epsilon"), 9),
        "rope_theta": source.llama("rope.freq_base"),
        "vocab_size": len(source[TOKENS]),
        "hidden_act": "silu",
        "tie_word_embeddings": True,
        "torch_dtype": "bfloat16",
    }


def tokenizer(source: Source) -> Tokenizer:
    """Byte-level BPE; digits stand alone."""
    tokens, types = source[TOKENS], source[TYPES]
    merges = [tuple(merge.split(" ")) for merge in source["tokenizer.ggml.merges"]]
    made = Tokenizer(models.BPE(vocab={token: i for i, token in enumerate(tokens)}, merges=merges))
    made.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    made.decoder = decoders.ByteLevel()
    special = [token for token, type_ in zip(tokens, types, strict=True) if type_ == CONTROL]
    marks = [token for token, type_ in zip(tokens, types, strict=True) if type_ == USER_DEFINED]
    made.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in special])
    made.add_tokens([AddedToken(token, special=False, normalized=False) for token in marks])
    return made


def tokenizer_config(source: Source, ids: dict[str, int]) -> dict[str, Any]:
    names = {name.removesuffix("_id"): source[TOKENS][number] for name, number in ids.items()}
    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "clean_up_tokenization_spaces": False,
        "model_max_length": source.llama("context_length"),
        "chat_template": source[TEMPLATE],
        **names,
    }


def main() -> None:
    path, template, folder = (Path(argument) for argument in sys.argv[1:])
    source = Source(path, template.read_text())
    folder.mkdir(parents=True, exist_ok=True)
    write_folder(source, folder / "thinker")
    write_gguf(source, folder / "thinker.gguf")


if __name__ == "__main__":
    main()
