"""`gguf-server inspect`: what a GGUF is, read from its beginning; nothing is loaded."""

from __future__ import annotations

import asyncio
import json
from dataclasses import asdict
from pathlib import Path

import typer

from backends.llamacpp.chat_template import TemplateError
from backends.llamacpp.template_features import find_features
from gguf_server.commands.model_description import Json, as_json, as_lines
from weights.gguf_header import DamagedHeader
from weights.gguf_model import GgufModel, read
from weights.refs import WeightsMissing, locate

_MOST_FILES_NAMED = 10


class _CannotInspect(Exception):
    """The message is for whoever named the file."""


def inspect(ref: str, *, json_wanted: bool) -> int:
    """Print what the file that `ref` leads to is. The exit status: 1 where there is none that can be read."""
    try:
        model = _model(ref)
    except _CannotInspect as error:
        typer.echo(str(error), err=True)
        return 1
    description = as_json(model, _template(model))
    if json_wanted:
        typer.echo(json.dumps(description, indent=2))
    else:
        for label, value in as_lines(description):
            typer.echo(f"{label:<16}{value}")
    return 0


def _model(ref: str) -> GgufModel:
    try:
        path = locate(ref)
    except WeightsMissing as error:
        raise _CannotInspect(_in_folder(ref) or str(error)) from error
    try:
        return read(path)
    except DamagedHeader as error:
        raise _CannotInspect(f"{path}: {error}") from error
    except OSError as error:
        raise _CannotInspect(f"{path}: {error.strerror}") from error


def _in_folder(ref: str) -> str | None:
    """Where a folder was named: what to name instead."""
    folder = Path(ref)
    if not folder.is_dir():
        return None
    names = sorted(file.name for file in folder.glob("*.gguf"))
    if not names:
        return f"{ref} is a folder without a GGUF"
    more = f", and {len(names) - _MOST_FILES_NAMED} more" if len(names) > _MOST_FILES_NAMED else ""
    return f"{ref} is a folder; name one of its files: {', '.join(names[:_MOST_FILES_NAMED])}{more}"


def _template(model: GgufModel) -> Json | None:
    """What the chat template can do, or the `error` that it ends with."""
    if model.chat_template is None:
        return None
    nothing: Json = {"tools": None, "thinking": None, "thinks": None, "takes_system": None}
    try:
        found = asyncio.run(find_features(model.chat_template))
    except TemplateError as error:
        return {"n_chars": len(model.chat_template), **nothing, "error": str(error)}
    return {"n_chars": len(model.chat_template), **asdict(found), "error": None}
