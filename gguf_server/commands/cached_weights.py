"""`gguf-server list`, `verify` and `rm`: the weights that are on this machine already."""

from __future__ import annotations

import json
from collections.abc import Sequence

import typer
from rich.console import Console
from rich.filesize import decimal

from gguf_server.commands.named_weights import files_in_words, meant_by, of_hub
from gguf_server.commands.transfer_display import TransferDisplay
from weights import gguf_model
from weights.cache_removal import Removal, plan_removal
from weights.cached_models import CachedModel, cached_models, files_to_verify
from weights.errors import WeightsError, WeightsMissing
from weights.gguf_header import DamagedHeader
from weights.hub_cache import CachedFile, cache_dir, check_whole
from weights.reference import Hub, LocalPath, Packaged
from weights.refs import locate


def list_cached(*, json_wanted: bool) -> int:
    """The exit status: 1 where the cache cannot be read."""
    try:
        models = list(cached_models())
    except OSError as error:
        typer.echo(f"the cache cannot be read: {error}", err=True)
        return 1
    if json_wanted:
        typer.echo(json.dumps([_as_json(model) for model in models], indent=2))
        return 0
    if not models:
        typer.echo(f"No weights in {cache_dir()}.", err=True)
        return 0
    for size, state, name in [
        ("SIZE", "STATE", "REFERENCE"),
        *((decimal(model.n_bytes), model.state, str(model.wanted)) for model in models),
    ]:
        typer.echo(f"{size:>9}  {state:<11}  {name}")
    return 0


def verify(names: Sequence[str]) -> int:
    """Reads each file to its end. The exit status: 1 where one is not whole."""
    try:
        references = meant_by(names)
        wanted = of_hub(references) if names else (None,)
        files = list(dict.fromkeys(file for one in wanted for file in files_to_verify(one)))
    except (WeightsError, OSError) as error:
        typer.echo(str(error), err=True)
        return 1
    with TransferDisplay(Console(stderr=True)) as display:
        damaged = [told for file in files if (told := _problem(file, display))]
    unknown = [file for file in files if file.checksum is None]
    for file in unknown:
        typer.echo(f"{file.name} of {file.snapshot.repo} has no checksum to compare; its size is right.", err=True)
    if files or not names:
        typer.echo(f"{len(files) - len(damaged) - len(unknown)} of {len(files)} files have the right checksum.")
    damaged += [told for ref in references if not isinstance(ref, Hub) and (told := _problem_of_local(ref))]
    for told in damaged:
        typer.echo(told, err=True)
    return 1 if damaged else 0


def _problem_of_local(reference: Packaged | LocalPath) -> str | None:
    """Of a file whose checksum nobody published, its own header tells how long it is."""
    try:
        model = gguf_model.read(locate(str(reference)))
    except WeightsError as error:
        return str(error)
    except (DamagedHeader, OSError) as error:
        return f"{reference}: {error}"
    typer.echo(
        f"{reference} is as long as its header says ({decimal(model.n_bytes)}); there is no checksum to compare."
    )
    return None


def remove(names: Sequence[str], *, without_asking: bool) -> int:
    """The exit status: 1 where something is not here, or somebody says no."""
    try:
        removals = [plan_removal(wanted) for wanted in _of_hub_alone(names)]
        for removal in removals:
            typer.echo(_line(removal))
        if not (without_asking or typer.confirm("Remove this?", err=True)):
            return 1
        for removal in removals:
            removal.execute()
    except (WeightsError, OSError) as error:
        typer.echo(str(error), err=True)
        return 1
    return 0


def _of_hub_alone(names: Sequence[str]) -> Sequence[Hub]:
    """Raises `WeightsMissing` where only other things were named; of a preset they are left out."""
    references = meant_by(names)
    if not (wanted := of_hub(references)):
        others = ", ".join(map(str, references))
        raise WeightsMissing(f"{others}: not of the hub, so it is not for this to remove")
    return wanted


def _problem(file: CachedFile, display: TransferDisplay) -> str | None:
    n_read = 0

    def advance(n_bytes: int) -> None:
        nonlocal n_read
        n_read += n_bytes
        display.reach(n_read)

    try:
        display.begin(file.name, file.n_bytes, is_check=True)
        check_whole(file, advance, again=True)
    except WeightsError as error:
        return str(error)
    return None


def _line(removal: Removal) -> str:
    return f"{removal.wanted}: {files_in_words(len(removal.names))}, frees {decimal(removal.n_bytes)}"


def _as_json(model: CachedModel) -> dict[str, object]:
    return {
        "reference": str(model.wanted),
        "bytes": model.n_bytes,
        "state": model.state,
        "files": [str(file.path) for file in model.files],
    }
