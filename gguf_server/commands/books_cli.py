"""`gguf-server usage` and `gguf-server audit`: wiring."""

from __future__ import annotations

from datetime import date, datetime
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from gguf_server import keys as api_keys
from gguf_server.commands.settings_options import ConfigOption, load
from gguf_server.usage.report import Grouping

audit_app = typer.Typer(help="Check and show the audit.", no_args_is_help=True)

_DAYS = ["%Y-%m-%d"]
FirstDayOption = Annotated[
    datetime | None, typer.Option("--from", formats=_DAYS, metavar="DAY", help="First day, YYYY-MM-DD, UTC.")
]
LastDayOption = Annotated[datetime | None, typer.Option("--to", formats=_DAYS, metavar="DAY", help="Last day.")]
HashKeyOption = Annotated[
    Path | None, typer.Option("--hash-key-file", metavar="FILE", help="By default what the configuration says.")
]


class Rendering(StrEnum):
    TABLE = "table"
    JSON = "json"
    CSV = "csv"


def usage(
    first: FirstDayOption = None,
    last: LastDayOption = None,
    days: Annotated[int, typer.Option("--days", min=1, help="The last so many days, today included.")] = 30,
    key: Annotated[str | None, typer.Option("--key", metavar="ID_OR_NAME", help="Of this key alone.")] = None,
    by: Annotated[list[Grouping] | None, typer.Option("--by", help="One line for each; may be repeated.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print it as JSON.")] = False,
    as_csv: Annotated[bool, typer.Option("--csv", help="Print it as CSV.")] = False,
    config: ConfigOption = None,
    file: Annotated[
        Path | None, typer.Option("--file", metavar="FILE", help="By default what the configuration says.")
    ] = None,
) -> None:
    """Say what keys used: requests, tokens and time by day, key, service or model (UTC)."""
    from gguf_server.bookkeeping import usage_path
    from gguf_server.commands.usage import UsageRequest, show_usage

    if as_json and as_csv:
        raise typer.BadParameter("give --json or --csv, not both")
    settings = load(config)
    keys_file = settings.server.keys_file or api_keys.default_path()
    rendering = Rendering.JSON if as_json else Rendering.CSV if as_csv else Rendering.TABLE
    request = UsageRequest(_date(first), _date(last), days, key, tuple(by or (Grouping.KEY,)), rendering)
    raise typer.Exit(show_usage(file or usage_path(settings.usage), keys_file, request))


@audit_app.command("verify")
def verify_audit(
    files: Annotated[
        list[Path] | None,
        typer.Argument(metavar="[FILE...]", help="By default the audit of the configuration, with what was rotated."),
    ] = None,
    partial: Annotated[
        bool, typer.Option("--partial", help="Older files were put away on purpose: the beginning may be missing.")
    ] = False,
    hash_key_file: HashKeyOption = None,
    config: ConfigOption = None,
) -> None:
    """Find lines that were altered, removed, inserted or reordered. Exit status 1 where there are any."""
    from gguf_server.bookkeeping import hash_key_path
    from gguf_server.commands.audit import verify_files

    settings = load(config)
    found = tuple(files or ((settings.audit.file,) if settings.audit.file else ()))
    if not found:
        typer.echo("no audit is configured ([audit] file): name its files", err=True)
        raise typer.Exit(2)
    key_file = hash_key_file or hash_key_path(settings.audit)
    raise typer.Exit(verify_files(found, key_file, with_rotated=not files, is_partial=partial))


def _date(at: datetime | None) -> date | None:
    return at.date() if at is not None else None
