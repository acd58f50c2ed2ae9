"""`gguf-server keys`: wiring."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from gguf_server import config as configuration
from gguf_server import keys
from gguf_server.commands import key_limits
from gguf_server.commands.settings_options import ConfigOption, JsonOption, load
from gguf_server.limits.policy import NO_LIMITS, Priority

keys_app = typer.Typer(help="Create, limit, list and revoke API keys.", no_args_is_help=True)

KeysFileOption = Annotated[
    Path | None, typer.Option("--keys-file", metavar="FILE", help="By default what the configuration says.")
]
_ANY = "0: any, whatever the default."
RequestsPerMinute = Annotated[int | None, typer.Option(min=0, help=f"Requests in any 60 seconds. {_ANY}")]
TokensPerMinute = Annotated[int | None, typer.Option(min=0, help="Tokens of prompts and answers in 60 seconds.")]
RequestsPerDay = Annotated[int | None, typer.Option(min=0, help="Requests from midnight to midnight, UTC.")]
TokensPerDay = Annotated[int | None, typer.Option(min=0, help="Tokens of that day.")]
MaxConcurrent = Annotated[int | None, typer.Option(min=0, help="Requests a service computes at once; more wait.")]
MaxTokens = Annotated[int | None, typer.Option(min=0, help="Largest max_tokens of a request.")]
ServiceNames = Annotated[
    list[str] | None, typer.Option("--service", metavar="NAME", help="A service it may use; may be repeated; or all.")
]
Expires = Annotated[
    str | None, typer.Option(metavar="WHEN", help="A day (2027-01-01, from its beginning, UTC), 90d, 12h, or never.")
]
PriorityOption = Annotated[Priority | None, typer.Option(help="Whose turn comes first where requests wait.")]


@keys_app.command("create")
def create_key(
    name: str,
    config: ConfigOption = None,
    keys_file: KeysFileOption = None,
    admin: Annotated[bool, typer.Option("--admin", help="For governing the server; it asks no model.")] = False,
    requests_per_minute: RequestsPerMinute = None,
    tokens_per_minute: TokensPerMinute = None,
    requests_per_day: RequestsPerDay = None,
    tokens_per_day: TokensPerDay = None,
    max_concurrent: MaxConcurrent = None,
    max_tokens: MaxTokens = None,
    service: ServiceNames = None,
    expires: Expires = None,
    priority: PriorityOption = None,
) -> None:
    """Make a key and print its token, which cannot be shown again."""
    path = _keys_path(config, keys_file)
    _note_unknown(service, config)
    amounts = {
        "requests_per_minute": requests_per_minute, "tokens_per_minute": tokens_per_minute,
        "requests_per_day": requests_per_day, "tokens_per_day": tokens_per_day,
        "max_concurrent": max_concurrent, "max_tokens": max_tokens, "priority": priority,
    }  # fmt: skip
    with _errors_end_the_program():
        limits = key_limits.changed(NO_LIMITS, clear=False, amounts=amounts, services=service, expires=expires)
        record, token = keys.create(path, name, limits, role="admin" if admin else "user")
    typer.echo(f"Key {record.name!r} (id {record.id}) is in {path}. This is its only appearance:", err=True)
    typer.echo(token)


@keys_app.command("limit")
def limit_key(
    id_or_name: str,
    config: ConfigOption = None,
    keys_file: KeysFileOption = None,
    clear: Annotated[bool, typer.Option("--clear", help="Take all its limits away first.")] = False,
    requests_per_minute: RequestsPerMinute = None,
    tokens_per_minute: TokensPerMinute = None,
    requests_per_day: RequestsPerDay = None,
    tokens_per_day: TokensPerDay = None,
    max_concurrent: MaxConcurrent = None,
    max_tokens: MaxTokens = None,
    service: ServiceNames = None,
    expires: Expires = None,
    priority: PriorityOption = None,
) -> None:
    """Change what a key may do; what is not named stays. A running server obeys from its next request on."""
    amounts = {
        "requests_per_minute": requests_per_minute, "tokens_per_minute": tokens_per_minute,
        "requests_per_day": requests_per_day, "tokens_per_day": tokens_per_day,
        "max_concurrent": max_concurrent, "max_tokens": max_tokens, "priority": priority,
    }  # fmt: skip
    if not clear and not service and expires is None and set(amounts.values()) == {None}:
        raise typer.BadParameter("say which limit, or --clear")
    path = _keys_path(config, keys_file)
    _note_unknown(service, config)
    change = partial(key_limits.changed, clear=clear, amounts=amounts, services=service, expires=expires)
    with _errors_end_the_program():
        record = keys.set_limits(path, id_or_name, change)
    told = key_limits.describe(record.limits, datetime.now(UTC)) or "no limits of its own"
    typer.echo(f"Key {record.name!r} (id {record.id}): {told}.", err=True)


@keys_app.command("list")
def list_keys(config: ConfigOption = None, keys_file: KeysFileOption = None, as_json: JsonOption = False) -> None:
    """Show every key and its limits, revoked ones too; never a token."""
    path = _keys_path(config, keys_file)
    with _errors_end_the_program():
        records = keys.list_keys(path)
    if as_json:
        shown = [{"role": record.role, **keys.as_json(record)} for record in records]
        for entry in shown:
            del entry["sha256"]
        typer.echo(json.dumps(shown, indent=2, ensure_ascii=False))
        return
    if not records:
        typer.echo(f"No keys in {path}.", err=True)
        return
    now = datetime.now(UTC)
    typer.echo(f"{'ID':<12}  {'CREATED':<25}  {'REVOKED':<25}  {'ROLE':<5}  NAME")
    for record in records:
        of = f"{record.id:<12}  {record.created:<25}  {record.revoked or '-':<25}  {record.role:<5}  {record.name}"
        told = key_limits.describe(record.limits, now)
        typer.echo(f"{of}  ({told})" if told else of)


@keys_app.command("revoke")
def revoke_key(id_or_name: str, config: ConfigOption = None, keys_file: KeysFileOption = None) -> None:
    """End a key. A running server refuses it from its next request on."""
    path = _keys_path(config, keys_file)
    with _errors_end_the_program():
        record = keys.revoke(path, id_or_name)
    typer.echo(f"Key {record.name!r} (id {record.id}) is revoked.", err=True)


def _keys_path(config: Path | None, keys_file: Path | None) -> Path:
    return keys_file or load(config).server.keys_file or keys.default_path()


def _note_unknown(services: list[str] | None, config: Path | None) -> None:
    """A misspelt name would keep the key out of everything."""
    if services:
        known = {*load(config).services, *configuration.preset_names(), key_limits.ALL}
        for name in dict.fromkeys(services):
            if name not in known:
                typer.echo(f"Note: there is no service {name!r} in this configuration.", err=True)


@contextmanager
def _errors_end_the_program() -> Iterator[None]:
    try:
        yield
    except keys.KeysError as exc:
        typer.echo(str(exc), err=True)
        raise typer.Exit(1) from exc
    except key_limits.NoSuchTime as exc:
        raise typer.BadParameter(str(exc)) from exc
