"""One question to the admin API, and its answer for a person."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping
from typing import Any, Final
from urllib.parse import quote

import httpx2

from gguf_server.config import ADMIN_KEY_VARIABLE, is_loopback

_TIMEOUT_S: Final = 60.0


def quoted(name: str) -> str:
    """As one step of a path."""
    return quote(name, safe="")


def call(method: str, url: str, key: str | None, *, body: Mapping[str, Any] | None, json_wanted: bool) -> int:
    """Returns the exit status: 0, or 1 where the server refused or cannot be reached, or 2 without a key."""
    if not key:
        print(f"no admin key: put one into {ADMIN_KEY_VARIABLE}", file=sys.stderr)
        return 2
    headers = {"Authorization": f"Bearer {key}"}
    try:
        is_near = is_loopback(httpx2.URL(url).host)  # where a proxy of the environment has no business with the key
        answer = httpx2.request(method, url, json=body, headers=headers, timeout=_TIMEOUT_S, trust_env=not is_near)
        said = answer.json()
    except (httpx2.HTTPError, httpx2.InvalidURL, ValueError) as error:
        print(f"{url}: no answer of a gguf-server: {type(error).__name__}", file=sys.stderr)
        return 1
    if answer.status_code >= 400:
        print(_refusal(answer.status_code, said), file=sys.stderr)
        return 1
    print(json.dumps(said, indent=2, ensure_ascii=False) if json_wanted else "\n".join(_lines(said)))
    return 0


def _refusal(status: int, said: Any) -> str:
    error = said.get("error") if isinstance(said, dict) else None
    if status == 404 and isinstance(error, dict) and error.get("code") == "not_found" and "/admin" in str(error):
        return f"{error['message']}: has the server an admin key? (gguf-server keys create NAME --admin)"
    return str(error["message"]) if isinstance(error, dict) and "message" in error else f"status {status}"


def _lines(said: Mapping[str, Any]) -> Iterator[str]:
    """Any of the API's answers."""
    if "what_happens" in said:
        yield f"{said['service']}: {said['what_happens']}"
    for name, service in said.get("services", {}).items():
        yield from _service_lines(name, service)
    for name, n_left in said.get("leaving", {}).items():
        yield f"{name}  removed, {n_left} requests left"
    reload = said.get("last_reload") or (said if "changes" in said else None)
    if reload is not None:
        yield from _reload_lines(reload)


def _service_lines(name: str, service: Mapping[str, Any]) -> Iterator[str]:
    state = "drained" if service["paused"] else "ready" if service["ready"] else "not ready"
    pinned = f", pinned to {service['pinned']}" if service["pinned"] else ""
    counts = f"{service['running']} running, {service['waiting']} waiting"
    yield f"{name}  {state}  {service['engine'] or '-'}{pinned}  {counts}"
    for engine in service["engines"]:
        failure = f"  {engine['last_failure']}" if engine["last_failure"] else ""
        held = " (held)" if engine["held"] else ""
        yield f"    {engine['id']}  {engine['phase']}{held}  {engine['requests']} requests{failure}"
    for told in (service["moving"], service["move_failed"]):
        if told:
            yield f"    {told}"


def _reload_lines(reload: Mapping[str, Any]) -> Iterator[str]:
    yield f"reload of {reload['at']} by {reload['asked_by']}: {'ok' if reload['ok'] else 'refused'}"
    yield from (f"    {problem}" for problem in reload["problems"])
    yield from (f"    {change}" for change in reload["changes"])
    yield from (f"    {setting} takes effect at the next start" for setting in reload["needs_restart"])
    if not (reload["problems"] or reload["changes"] or reload["needs_restart"]):
        yield "    nothing has changed"
