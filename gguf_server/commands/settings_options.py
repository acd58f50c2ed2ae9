"""Options that say which configuration is meant, and reading it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from gguf_server import config as configuration
from gguf_server.settings import Settings

ConfigOption = Annotated[
    Path | None,
    typer.Option("--config", metavar="FILE", help="By default GGUF_SERVER_CONFIG, else ./gguf-server.toml."),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print it as JSON.")]


def load(
    config: Path | None, presets: list[str] | None = None, *, host: str | None = None, port: int | None = None
) -> Settings:
    """The settings; what is wrong with them is said on standard error, and ends the program."""
    try:
        return configuration.load(config, presets or (), host=host, port=port)
    except configuration.ConfigError as exc:
        for problem in exc.problems:
            typer.echo(problem, err=True)
        raise typer.Exit(2) from exc
