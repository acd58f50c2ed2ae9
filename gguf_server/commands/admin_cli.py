"""`gguf-server admin …`: the admin API of a running server, from a terminal."""

from __future__ import annotations

from typing import Annotated

import typer

from gguf_server.config import ADMIN_KEY_VARIABLE

admin_app = typer.Typer(help="Govern a running server; needs an admin key.", no_args_is_help=True)

UrlOption = Annotated[str, typer.Option("--url", help="Of its shared listener.")]
KeyOption = Annotated[
    str | None, typer.Option("--key", envvar=ADMIN_KEY_VARIABLE, help="Better in the environment: others see commands.")
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print the server's answer as it is.")]
_URL = "http://127.0.0.1:8040"


@admin_app.command("status")
def show_status(url: UrlOption = _URL, key: KeyOption = None, as_json: JsonOption = False) -> None:
    """Show services, their engines, and what the last reload came to."""
    _call("GET", "/admin/services", url, key, as_json=as_json)


@admin_app.command("reload")
def reload(url: UrlOption = _URL, key: KeyOption = None, as_json: JsonOption = False) -> None:
    """Read the configuration again, as SIGHUP does, and say what came of it."""
    _call("POST", "/admin/reload", url, key, as_json=as_json)


@admin_app.command("drain")
def drain(
    service: Annotated[str | None, typer.Argument(help="All of them when absent.")] = None,
    url: UrlOption = _URL,
    key: KeyOption = None,
    as_json: JsonOption = False,
) -> None:
    """Take no new requests; those that have begun are answered."""
    _call("POST", f"{_of(service)}/drain", url, key, as_json=as_json)


@admin_app.command("resume")
def resume(
    service: Annotated[str | None, typer.Argument(help="All of them when absent.")] = None,
    url: UrlOption = _URL,
    key: KeyOption = None,
    as_json: JsonOption = False,
) -> None:
    """Take requests again."""
    _call("POST", f"{_of(service)}/resume", url, key, as_json=as_json)


@admin_app.command("restart")
def restart(
    service: str, engine: str, url: UrlOption = _URL, key: KeyOption = None, as_json: JsonOption = False
) -> None:
    """Load an engine again, once it has answered what it was asked."""
    from gguf_server.commands.admin import quoted

    _call("POST", f"{_of(service)}/engines/{quoted(engine)}/restart", url, key, as_json=as_json)


@admin_app.command("switch")
def switch(
    service: str,
    engine: Annotated[str | None, typer.Argument(help="When absent, back to the configuration's order.")] = None,
    url: UrlOption = _URL,
    key: KeyOption = None,
    as_json: JsonOption = False,
) -> None:
    """Have this engine answer a service's requests before all others."""
    _call("POST", f"{_of(service)}/engine", url, key, body={"engine": engine}, as_json=as_json)


def _of(service: str | None) -> str:
    from gguf_server.commands.admin import quoted

    return "/admin" if service is None else f"/admin/services/{quoted(service)}"


def _call(
    method: str, path: str, url: str, key: str | None, *, body: dict[str, str | None] | None = None, as_json: bool
) -> None:
    from gguf_server.commands.admin import call

    raise typer.Exit(call(method, url.rstrip("/") + path, key, body=body, json_wanted=as_json))
