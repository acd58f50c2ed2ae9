"""Image encoders (mmproj files) for the models here that see: a small vision transformer and a way into 64 dimensions.

Gemma 3's scales every image to one size and makes 64 tokens of it, which look at each other. Gemma 4's keeps an image's
shape and gives every row and column a place; its linear layers clamp what goes through them. Qwen2-VL's takes images of
any shape as well, and its tokens have three positions each.
"""

from __future__ import annotations

from typing import Final

import numpy as np

from tests.models.gguf_file import ModelFile, ModelOptions

N_EMBD_TEXT: Final = 64
N_EMBD: Final = 32
N_FF: Final = 64
PATCH_SIZE: Final = 8
N_MERGED: Final = 2
"""Patches on a side of the square that becomes one token."""


def gemma3_mmproj(options: ModelOptions) -> ModelFile:
    file = _projector("gemma3", options, image_size=128)
    file.writer.add_uint32("clip.vision.projector.scale_factor", N_MERGED)
    file.bias("v.patch_embd", N_EMBD)
    file.random("v.position_embd.weight", (128 // PATCH_SIZE) ** 2, N_EMBD, scale=0.3)
    _layer(file, "v.blk.0", has_bias=True)
    _post_norm(file)
    file.norm("mm.soft_emb_norm", N_EMBD)
    file.random("mm.input_projection.weight", N_EMBD, N_EMBD_TEXT, scale=N_EMBD**-0.5)
    return file


def gemma4_mmproj(options: ModelOptions) -> ModelFile:
    file = _projector("gemma4v", options, image_size=128)
    file.writer.add_uint32("clip.vision.projector.scale_factor", N_MERGED)
    file.random("v.position_embd.weight", 2, 1024, N_EMBD, scale=0.3)
    _layer(file, "v.blk.0", has_bias=False)
    for norm in ("attn_q_norm", "attn_k_norm"):
        file.norm(f"v.blk.0.{norm}", N_EMBD // 2)
    for norm in ("attn_post_norm", "ffn_post_norm"):
        file.norm(f"v.blk.0.{norm}", N_EMBD)
    file.matrix("v.blk.0.ffn_gate", N_EMBD, N_FF)
    for bound, value in (("input_min", -4), ("input_max", 4), ("output_min", -4), ("output_max", 4)):
        file.vector(f"v.blk.0.ffn_up.{bound}", np.array([value], np.float32))
    file.matrix("mm.input_projection", N_EMBD, N_EMBD_TEXT)
    return file


def qwen2vl_mmproj(options: ModelOptions) -> ModelFile:
    file = _projector("qwen2vl_merger", options, image_size=128)
    file.writer.add_uint32("clip.vision.spatial_merge_size", N_MERGED)
    file.random("v.patch_embd.weight.1", N_EMBD, 3, PATCH_SIZE, PATCH_SIZE, scale=0.1)
    _layer(file, "v.blk.0", has_bias=True)
    _post_norm(file)
    n_merged = N_MERGED**2 * N_EMBD
    file.matrix("mm.0", n_merged, n_merged)
    file.bias("mm.0", n_merged)
    file.matrix("mm.2", n_merged, N_EMBD_TEXT)
    file.bias("mm.2", N_EMBD_TEXT)
    return file


def _projector(type_: str, options: ModelOptions, *, image_size: int) -> ModelFile:
    file = ModelFile("clip", f"tiny {type_}", options)
    writer = file.writer
    writer.add_type("mmproj")
    writer.add_bool("clip.has_vision_encoder", True)
    writer.add_string("clip.projector_type", type_)
    writer.add_uint32("clip.vision.image_size", image_size)
    writer.add_uint32("clip.vision.patch_size", PATCH_SIZE)
    writer.add_uint32("clip.vision.embedding_length", N_EMBD)
    writer.add_uint32("clip.vision.feed_forward_length", N_FF)
    writer.add_uint32("clip.vision.block_count", 1)
    writer.add_uint32("clip.vision.attention.head_count", 2)
    writer.add_float32("clip.vision.attention.layer_norm_epsilon", 1e-6)
    writer.add_uint32("clip.vision.projection_dim", N_EMBD_TEXT)
    writer.add_array("clip.vision.image_mean", [0.5, 0.5, 0.5])
    writer.add_array("clip.vision.image_std", [0.5, 0.5, 0.5])
    writer.add_bool("clip.use_gelu", True)
    file.random("v.patch_embd.weight", N_EMBD, 3, PATCH_SIZE, PATCH_SIZE, scale=0.1)
    return file


def _layer(file: ModelFile, name: str, *, has_bias: bool) -> None:
    shapes = dict.fromkeys(("attn_q", "attn_k", "attn_v", "attn_out"), (N_EMBD, N_EMBD))
    for part, (n_in, n_out) in {**shapes, "ffn_up": (N_EMBD, N_FF), "ffn_down": (N_FF, N_EMBD)}.items():
        file.matrix(f"{name}.{part}", n_in, n_out)
        if has_bias:
            file.bias(f"{name}.{part}", n_out)
    for norm in ("ln1", "ln2"):
        file.norm(f"{name}.{norm}", N_EMBD)
        if has_bias:
            file.bias(f"{name}.{norm}", N_EMBD)


def _post_norm(file: ModelFile) -> None:
    file.norm("v.post_ln", N_EMBD)
    file.bias("v.post_ln", N_EMBD)
