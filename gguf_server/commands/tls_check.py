"""What `gguf-server config check` says of the certificate."""

from __future__ import annotations

from datetime import UTC, datetime

import typer

from gguf_server.settings.listening import TlsSettings


def check_tls(settings: TlsSettings) -> int:
    """The exit status; a doubt, such as an end that is near, is no failure."""
    if not settings.is_on:
        return 0
    from gguf_server.listening.tls import TlsError, read_pair  # the command starts faster without it

    try:
        pair = read_pair(settings)
    except TlsError as error:
        typer.echo(str(error), err=True)
        return 2
    if doubt := pair.doubt(datetime.now(UTC)):
        typer.echo(f"warning: the certificate {doubt}", err=True)
    return 0
