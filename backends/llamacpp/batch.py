"""Pieces of a step written into llama.cpp's batch."""

from __future__ import annotations

from collections.abc import Sequence

from backends.llamacpp.image_runs import ImageRun
from backends.llamacpp.native import Context
from backends.llamacpp.sequence import Piece


def fill(context: Context, pieces: Sequence[Piece]) -> int:
    """Write pieces of text into the batch; returns the number of rows."""
    row = 0
    for piece in pieces:
        tokens, start, n_tokens, n_rows = piece.sequence.tokens, piece.start, piece.n_tokens, piece.n_rows
        end, position = row + n_rows, piece.sequence.position_of(start)
        if n_rows > 1:
            context.token[row:end] = [*tokens[start : start + n_tokens], *piece.draft]
            context.pos[row:end] = range(position, position + n_rows)
        else:
            context.token[row] = tokens[start]
            context.pos[row] = position
        context.seq_id[row:end] = piece.seq_id
        context.wants_logits[row:end] = 0
        if (n_outputs := piece.n_outputs) > 0:
            context.wants_logits[end - n_outputs : end] = 1
        row = end
    return row


def decode_image(context: Context, piece: Piece, run: ImageRun) -> None:
    """Compute a piece of an image, in a batch of its own. Raises `DecodeError`."""
    rows = slice(piece.start - run.start, piece.start - run.start + piece.n_tokens)
    position = piece.sequence.position_of(run.start)
    context.decode_embeddings(run.image, rows, seq_id=piece.seq_id, position=position, wants_logits=piece.wants_logits)
