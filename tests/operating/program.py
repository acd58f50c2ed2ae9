"""What the program itself says of its commands and settings, for texts and files that name them."""

from __future__ import annotations

from pathlib import Path

import typer.main
from typer.testing import CliRunner

from gguf_server import cli

OPERATING = Path(__file__).parents[2] / "docs" / "operating"

_RUNNER = CliRunner()


def command_exists(*words: str) -> bool:
    """Whether `gguf-server WORDS` names a command and options that it has; arguments are left alone."""
    if not words:
        return True
    command = typer.main.get_command(cli.app)
    names = list(words)
    while names and hasattr(command, "commands"):
        if names[0] not in command.commands:
            return False
        command = command.commands[names.pop(0)]
    known = {option for parameter in command.params for option in (*parameter.opts, *parameter.secondary_opts)}
    if getattr(command, "ignore_unknown_options", False):
        return True
    return all(word.partition("=")[0] in {*known, "--help"} for word in names if word.startswith("--"))


def run(*arguments: str, environ: dict[str, str] | None = None) -> tuple[int, str]:
    """Exit status and all that was printed."""
    result = _RUNNER.invoke(cli.app, list(arguments), env=environ)
    return result.exit_code, result.output
