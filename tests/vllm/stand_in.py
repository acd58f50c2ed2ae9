"""SmolLM2 as the stand-in for a thinking model, for llama.cpp.

Four tokens that the model never learnt become the marks of reasoning and of tool calls, which it reads as line ends,
and the chat template is ours. Any other model is refused.
"""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from gguf import GGUFReader, GGUFValueType, GGUFWriter
from gguf.quants import dequantize, quantize

CONTROL, USER_DEFINED = 3, 4
RENAMED = {
    "<jupyter_start>": "<think>",
    "<jupyter_text>": "</think>",
    "<jupyter_code>": "<tool_call>",
    "<jupyter_output>": "</tool_call>",
}
TOKENS, TYPES, TEMPLATE = "tokenizer.ggml.tokens", "tokenizer.ggml.token_type", "tokenizer.chat_template"
LINE_END = "Ċ"  # as byte-level BPE spells it
EMBEDDING = "token_embd.weight"


class Source:
    """A GGUF with the changes that make it the stand-in."""

    def __init__(self, path: Path, template: str) -> None:
        self.reader = GGUFReader(path)
        self.values: dict[str, Any] = {
            name: field.contents() for name, field in self.reader.fields.items() if not name.startswith("GGUF.")
        }
        if (self["general.architecture"], self["tokenizer.ggml.pre"]) != ("llama", "smollm"):
            raise SystemExit(f"{path} is not a SmolLM2")
        tokens: list[str] = self[TOKENS]
        self.values[TYPES] = [
            USER_DEFINED if token in RENAMED else type_ for token, type_ in zip(tokens, self[TYPES], strict=True)
        ]
        self.values[TOKENS] = [RENAMED.get(token, token) for token in tokens]
        self.values[TEMPLATE] = template

    @cached_property
    def embedding(self) -> np.ndarray:
        """float32[n_tokens, n_embd]: a mark is half a line end, so it reads as one and is never the likeliest token."""
        (found,) = (tensor for tensor in self.reader.tensors if tensor.name == EMBEDDING)
        rows: np.ndarray = dequantize(found.data, found.tensor_type).astype(np.float32)
        tokens: list[str] = self[TOKENS]
        rows[[tokens.index(mark) for mark in RENAMED.values()]] = 0.5 * rows[tokens.index(LINE_END)]
        return rows

    def __getitem__(self, name: str) -> Any:
        return self.values[name]

    def llama(self, name: str) -> Any:
        return self.values[f"llama.{name}"]


def write_gguf(source: Source, path: Path) -> None:
    """The same tensors with the changed metadata."""
    writer = GGUFWriter(path, source["general.architecture"])
    for name, value in source.values.items():
        if name == "general.architecture":
            continue
        kind, *inner = source.reader.fields[name].types
        writer.add_key_value(name, value, kind, sub_type=inner[-1] if kind is GGUFValueType.ARRAY else None)
    tensors = source.reader.tensors
    for tensor in tensors:
        writer.add_tensor_info(
            tensor.name, tensor.data.shape, tensor.data.dtype, tensor.data.nbytes, tensor.tensor_type
        )
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    for tensor in tensors:
        data = quantize(source.embedding, tensor.tensor_type) if tensor.name == EMBEDDING else tensor.data
        writer.write_tensor_data(data)
    writer.close()
