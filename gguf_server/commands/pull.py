"""`gguf-server pull`: bring weights here, and say what came."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Final

import typer
from rich.console import Console
from rich.filesize import decimal

from gguf_server.commands.named_weights import files_in_words, meant_by, of_hub
from gguf_server.commands.transfer_display import TransferDisplay
from gguf_server.service_weights import needed
from gguf_server.settings import Settings
from weights import hub_cache, refs
from weights.errors import HubUnreachable, WeightsError
from weights.pull import Plan, make_plan, pull
from weights.reference import HubRepo, Reference

_CANCELLED: Final = 130  # as a shell has it for Ctrl-C


def pull_named(names: Sequence[str], *, dry_run: bool) -> int:
    """Presets and references. The exit status: 1 where anything is not here in the end."""
    try:
        return _pull(meant_by(names), dry_run=dry_run)
    except WeightsError as error:
        return _tell(error)


def pull_configured(settings: Settings, *, dry_run: bool) -> int:
    """Everything that these services need."""
    try:
        wanted = [reference for service in settings.services.values() for reference in needed(service)]
        return _pull(tuple(dict.fromkeys(wanted)), dry_run=dry_run)
    except WeightsError as error:
        return _tell(error)


def _pull(wanted: Sequence[Reference], *, dry_run: bool) -> int:
    console = Console(stderr=True)
    try:
        plan = make_plan(of_hub(wanted))
        for line in _lines(plan):
            typer.echo(line)
        if not dry_run:
            with TransferDisplay(console) as display:
                pull(plan, display)
    except HubUnreachable as error:
        return _without_hub(wanted, error)
    except KeyboardInterrupt:
        typer.echo("Cancelled. What came is kept: the same command goes on from there.", err=True)
        return _CANCELLED
    return 0 if dry_run else _say_what_is_here(wanted)


def _lines(plan: Plan) -> list[str]:
    lines = [
        f"{', '.join(map(str, part.wanted))}: {files_in_words(len(part.entries))}, {decimal(part.n_bytes)}"
        for part in plan.parts
    ]
    if plan.n_missing_bytes:
        lines.append(f"To fetch: {decimal(plan.n_missing_bytes)}, into {hub_cache.cache_dir()}")
    return lines


def _without_hub(wanted: Sequence[Reference], error: HubUnreachable) -> int:
    """A machine without a way to the hub may have it all already."""
    typer.echo(f"{error}.", err=True)
    return _say_what_is_here(wanted)


def _say_what_is_here(wanted: Sequence[Reference]) -> int:
    status = 0
    for reference in wanted:
        try:
            typer.echo(f"{reference} is here: {_found(reference)}")
        except WeightsError as error:
            status = _tell(error)
    return status


def _found(reference: Reference) -> Path:
    if isinstance(reference, HubRepo):
        return refs.resolve_repo(reference)
    return refs.resolve(str(reference))


def _tell(error: WeightsError) -> int:
    typer.echo(str(error), err=True)
    return 1
