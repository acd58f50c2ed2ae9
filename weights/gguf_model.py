"""A GGUF model as a whole: what its files say, and what llama.cpp makes of that. No tensor's data is read.

A model may be split over files `NAME-00001-of-0000N.gguf`. The first has the metadata, each has some of the tensors,
and naming any of them means all.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from weights.gguf_header import Array, DamagedHeader, Header, Value, read_header
from weights.gguf_keys import Keys
from weights.gguf_layers import Layer, Layers, read_layers
from weights.gguf_tensors import Tensor

_SPLIT: Final = re.compile(r"(?P<name>.*)-(?P<number>\d{5})-of-(?P<count>\d{5})\.gguf", re.DOTALL)
_ARCHITECTURE: Final = re.compile(r"[\w.-]{1,64}", re.ASCII)
_MOST_SPLITS: Final = 1000


@dataclass(frozen=True, slots=True)
class Tokenizer:
    """`model` is the kind (`gpt2` for BPE, `llama` for SentencePiece, …), `pre` how text is cut before it."""

    model: str
    pre: str | None
    n_tokens: int
    n_merges: int
    bos_id: int | None
    eos_id: int | None


@dataclass(frozen=True, slots=True)
class GgufModel:
    """`n_bytes` and `tensors` are those of all `splits`; `kind` is `model`, `mmproj`, `adapter`, ….

    What is no model has no `layers`, and zeros for the sizes of one.
    """

    path: Path
    splits: tuple[Path, ...]
    n_bytes: int
    kind: str
    architecture: str
    name: str | None
    metadata: Mapping[str, Value]
    tensors: tuple[Tensor, ...]
    n_embd: int
    n_vocab: int
    n_ctx_train: int
    layers: tuple[Layer, ...]
    sliding_window: int | None
    n_kv_shared_layers: int
    chat_template: str | None
    tokenizer: Tokenizer | None

    @property
    def n_layers(self) -> int:
        return len(self.layers)

    @property
    def n_heads(self) -> tuple[int, ...]:
        return tuple(layer.n_heads for layer in self.layers)

    @property
    def n_kv_heads(self) -> tuple[int, ...]:
        return tuple(layer.n_kv_heads for layer in self.layers)

    @property
    def head_dim_k(self) -> tuple[int, ...]:
        return tuple(layer.head_dim_k for layer in self.layers)

    @property
    def head_dim_v(self) -> tuple[int, ...]:
        return tuple(layer.head_dim_v for layer in self.layers)

    @property
    def is_sliding(self) -> tuple[bool, ...]:
        return tuple(layer.is_sliding for layer in self.layers)

    @property
    def n_parameters(self) -> int:
        return sum(tensor.n_elements for tensor in self.tensors)

    @property
    def n_bytes_by_type(self) -> dict[str, int]:
        """Bytes of tensors by their type, the largest share first."""
        n_bytes: Counter[str] = Counter()
        for tensor in self.tensors:
            n_bytes[tensor.type] += tensor.n_bytes
        return dict(n_bytes.most_common())

    def get(self, name: str) -> Value | None:
        """The value under `ARCHITECTURE.name`."""
        return self.metadata.get(f"{self.architecture}.{name}")

    def tensor(self, name: str) -> Tensor | None:
        """By its full name, such as `token_embd.weight`."""
        return next((tensor for tensor in self.tensors if tensor.name == name), None)


def read(path: Path) -> GgufModel:
    """Raises `DamagedHeader` for what llama.cpp would not load either, and OSError where a file cannot be read."""
    splits = _splits(path)
    headers = _read_all(splits)
    metadata = headers[0].metadata
    architecture = metadata.get("general.architecture")
    if not isinstance(architecture, str) or not _ARCHITECTURE.fullmatch(architecture):
        raise DamagedHeader("it does not name its architecture")
    keys = Keys(architecture, metadata)
    kind = "mmproj" if architecture == "clip" else _text(metadata, "general.type") or "model"
    is_model = kind == "model"
    tokenizer = _tokenizer(metadata)
    tensors = _joined(headers)
    layers = read_layers(keys) if is_model else Layers((), None, 0)
    return GgufModel(
        path=path,
        splits=splits,
        n_bytes=sum(header.n_bytes for header in headers),
        kind=kind,
        architecture=architecture,
        name=_text(metadata, "general.name"),
        metadata=metadata,
        tensors=tensors,
        n_embd=keys.number("embedding_length") if is_model else 0,
        n_vocab=_n_vocab(keys, tokenizer, tensors) if is_model else 0,
        n_ctx_train=keys.number("context_length") if is_model else 0,
        layers=layers.layers,
        sliding_window=layers.sliding_window,
        n_kv_shared_layers=layers.n_kv_shared,
        chat_template=_text(metadata, "tokenizer.chat_template"),
        tokenizer=tokenizer,
    )


def _splits(path: Path) -> tuple[Path, ...]:
    """All files of the model that `path` is or is a part of, in order."""
    match = _SPLIT.fullmatch(path.name)
    if match is None:
        return (path,)
    count = int(match["count"])
    if not 1 <= int(match["number"]) <= count <= _MOST_SPLITS:
        raise DamagedHeader(f"{path.name} cannot be part {match['number']} of {count}")
    paths = tuple(path.with_name(f"{match['name']}-{number:05}-of-{count:05}.gguf") for number in range(1, count + 1))
    missing = [part.name for part in paths if not part.is_file()]
    if missing:
        raise DamagedHeader(f"{len(missing)} of its {count} parts are not beside it: {', '.join(missing[:3])}")
    return paths


def _read_all(paths: tuple[Path, ...]) -> list[Header]:
    headers = []
    for number, path in enumerate(paths):
        try:
            header = read_header(path)
        except DamagedHeader as error:
            if len(paths) == 1:
                raise
            raise DamagedHeader(f"{path.name}: {error}") from error
        count, place = header.metadata.get("split.count", 1), header.metadata.get("split.no", 0)
        if (count, place) != (len(paths), number) and not (len(paths) == 1 and count in (0, 1)):
            detail = f"it is part {place} of {count}, where its name means part {number} of {len(paths)}"
            raise DamagedHeader(f"{path.name}: {detail}, counted from 0; parts keep the names they were made with")
        headers.append(header)
    return headers


def _joined(headers: list[Header]) -> tuple[Tensor, ...]:
    tensors = tuple(tensor for header in headers for tensor in header.tensors)
    if len({tensor.name for tensor in tensors}) < len(tensors):
        raise DamagedHeader("two of its parts have the same tensor")
    return tensors


def _tokenizer(metadata: Mapping[str, Value]) -> Tokenizer | None:
    model = _text(metadata, "tokenizer.ggml.model")
    if model is None:
        return None
    return Tokenizer(
        model=model,
        pre=_text(metadata, "tokenizer.ggml.pre"),
        n_tokens=_length(metadata.get("tokenizer.ggml.tokens")),
        n_merges=_length(metadata.get("tokenizer.ggml.merges")),
        bos_id=_token_id(metadata, "tokenizer.ggml.bos_token_id"),
        eos_id=_token_id(metadata, "tokenizer.ggml.eos_token_id"),
    )


def _n_vocab(keys: Keys, tokenizer: Tokenizer | None, tensors: tuple[Tensor, ...]) -> int:
    """Of the tokenizer, else what the file says, else the rows of the embeddings."""
    if tokenizer and tokenizer.n_tokens:
        return tokenizer.n_tokens
    embeddings = next((tensor for tensor in tensors if tensor.name == "token_embd.weight"), None)
    n_rows = embeddings.shape[1] if embeddings and len(embeddings.shape) > 1 else 0
    return keys.number("vocab_size", n_rows)


def _text(metadata: Mapping[str, Value], key: str) -> str | None:
    value = metadata.get(key)
    return value if isinstance(value, str) else None


def _length(value: Value | None) -> int:
    return value.n_elements if isinstance(value, Array) else 0


def _token_id(metadata: Mapping[str, Value], key: str) -> int | None:
    value = metadata.get(key)
    return value if isinstance(value, int) else None
