"""The command line: reads what was asked and calls the part that does it.

Exit status: 0, or 1 where the key file or a model is at fault, or 2 where the configuration or the command line is.
"""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import structlog
import tomli_w
import typer

from gguf_server import config as configuration
from gguf_server import keys as api_keys
from gguf_server.settings import ServerSettings, Settings

app = typer.Typer(
    help="An OpenAI-compatible gateway in front of vLLM and llama.cpp.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
keys_app = typer.Typer(help="Create, list and revoke API keys.", no_args_is_help=True)
config_app = typer.Typer(help="Check and show the configuration.", no_args_is_help=True)
app.add_typer(keys_app, name="keys")
app.add_typer(config_app, name="config")

ConfigOption = Annotated[
    Path | None,
    typer.Option("--config", metavar="FILE", help="By default GGUF_SERVER_CONFIG, else ./gguf-server.toml."),
]
PresetOption = Annotated[
    list[str] | None, typer.Option("--preset", metavar="NAME", help="Serve this preset; may be repeated.")
]
HostOption = Annotated[str | None, typer.Option("--host", help="Address to listen on.")]
PortOption = Annotated[int | None, typer.Option("--port", help="Port of the shared listener.")]
KeysFileOption = Annotated[
    Path | None, typer.Option("--keys-file", metavar="FILE", help="By default what the configuration says.")
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print it as JSON.")]


class Format(StrEnum):
    TOML = "toml"
    JSON = "json"


def main() -> None:
    app()


@app.command()
def serve(
    config: ConfigOption = None,
    preset: PresetOption = None,
    host: HostOption = None,
    port: PortOption = None,
) -> None:
    """Run the server until it is told to stop."""
    settings = _load(config, preset, host=host, port=port)
    _set_up_logging(settings.server)
    from gguf_server import run  # the other commands start faster without it

    raise typer.Exit(run.serve(settings))


@app.command("inspect")
def inspect_model(
    ref: Annotated[str, typer.Argument(metavar="REF", help="Path, hf:REPO/FILE or pkg:NAME of a GGUF.")],
    as_json: JsonOption = False,
) -> None:
    """Say what a GGUF is: its architecture, size, layers, context, tokenizer and chat template."""
    from gguf_server.commands.inspect import inspect

    raise typer.Exit(inspect(ref, json_wanted=as_json))


@keys_app.command("create")
def create_key(name: str, config: ConfigOption = None, keys_file: KeysFileOption = None) -> None:
    """Make a key and print its token, which cannot be shown again."""
    path = _keys_path(config, keys_file)
    with _key_errors_end_the_program():
        record, token = api_keys.create(path, name)
    typer.echo(f"Key {record.name!r} (id {record.id}) is in {path}. This is its only appearance:", err=True)
    typer.echo(token)


@keys_app.command("list")
def list_keys(config: ConfigOption = None, keys_file: KeysFileOption = None) -> None:
    """Show every key, revoked ones too; never a token."""
    path = _keys_path(config, keys_file)
    with _key_errors_end_the_program():
        records = api_keys.list_keys(path)
    if not records:
        typer.echo(f"No keys in {path}.", err=True)
        return
    for key_id, created, revoked, name in [
        ("ID", "CREATED", "REVOKED", "NAME"),
        *((record.id, record.created, record.revoked or "-", record.name) for record in records),
    ]:
        typer.echo(f"{key_id:<12}  {created:<25}  {revoked:<25}  {name}")


@keys_app.command("revoke")
def revoke_key(id_or_name: str, config: ConfigOption = None, keys_file: KeysFileOption = None) -> None:
    """End a key. A running server refuses it from its next request on."""
    path = _keys_path(config, keys_file)
    with _key_errors_end_the_program():
        record = api_keys.revoke(path, id_or_name)
    typer.echo(f"Key {record.name!r} (id {record.id}) is revoked.", err=True)


@config_app.command("check")
def check_config(config: ConfigOption = None, preset: PresetOption = None) -> None:
    """Say whether the configuration can be used."""
    settings = _load(config, preset)
    names = ", ".join(settings.services)
    typer.echo(f"ok: {names} on {settings.server.host}:{settings.server.port}")


@config_app.command("show")
def show_config(
    config: ConfigOption = None,
    preset: PresetOption = None,
    output: Annotated[Format, typer.Option("--format", help="How to write it.")] = Format.TOML,
) -> None:
    """Print the effective settings: presets, file and environment together."""
    settings = _load(config, preset)
    if output is Format.JSON:
        typer.echo(settings.model_dump_json(indent=2))
    else:
        typer.echo(tomli_w.dumps(settings.model_dump(mode="json", exclude_none=True)), nl=False)


@config_app.command("schema")
def show_schema() -> None:
    """Print the JSON schema of a configuration file."""
    typer.echo(json.dumps(Settings.model_json_schema(), indent=2))


@app.command(context_settings={"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []})
def bench(context: typer.Context) -> None:
    """Measure servers by HTTP, and report, compare and judge what was measured."""
    from bench import command

    raise typer.Exit(command.main(context.args))


def _load(
    config: Path | None, presets: list[str] | None, *, host: str | None = None, port: int | None = None
) -> Settings:
    try:
        return configuration.load(config, presets or (), host=host, port=port)
    except configuration.ConfigError as exc:
        for problem in exc.problems:
            typer.echo(problem, err=True)
        raise typer.Exit(2) from exc


def _keys_path(config: Path | None, keys_file: Path | None) -> Path:
    return keys_file or _load(config, None).server.keys_file or api_keys.default_path()


@contextmanager
def _key_errors_end_the_program() -> Iterator[None]:
    try:
        yield
    except api_keys.KeysError as exc:
        typer.echo(str(exc), err=True)
        raise typer.Exit(1) from exc


def _set_up_logging(server: ServerSettings) -> None:
    """One format on stderr for our own log and for that of the libraries."""
    level = logging.getLevelNamesMapping()[server.log_level.upper()]
    is_console = server.log_format == "console" or (server.log_format == "auto" and sys.stderr.isatty())
    shared: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    rendering: list[structlog.typing.Processor] = (
        [structlog.dev.ConsoleRenderer()]
        if is_console
        else [structlog.processors.format_exc_info, structlog.processors.JSONRenderer(ensure_ascii=False)]
    )
    handler = logging.StreamHandler()
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *rendering],
        )
    )
    logging.basicConfig(level=level, handlers=[handler], force=True)
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.stdlib.LoggerFactory(),
    )
