"""From a file, presets, the environment and the command line to one `Settings`.

Later ones win, table by table: preset < file < `GGUF_SERVER_<SECTION>__<KEY>` < `--host`, `--port`. Lists and single
values replace what was there. All problems are found in one pass and raised together, each as one line that names the
key at fault and, where there is one, the name that was probably meant.

Which services there are is for the file and `--preset` to say; the environment changes those and adds none, so that a
misspelt name is refused rather than started.
"""

from __future__ import annotations

import json
import os
import re
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any, TypeGuard

from pydantic import ValidationError

from gguf_server.config_problems import describe, did_you_mean, dotted, every_setting
from gguf_server.loopback import is_loopback as is_loopback
from gguf_server.metrics import access
from gguf_server.settings import Settings

Table = dict[str, Any]

ENV_PREFIX = "GGUF_SERVER_"
CONFIG_VARIABLE = ENV_PREFIX + "CONFIG"
KEYS_VARIABLE = ENV_PREFIX + "API_KEYS"
ADMIN_KEYS_VARIABLE = ENV_PREFIX + "ADMIN_KEYS"
ADMIN_KEY_VARIABLE = ENV_PREFIX + "ADMIN_KEY"
DEFAULT_FILE = Path("gguf-server.toml")
DEFAULT_PRESET = "demo"


class ConfigError(Exception):
    """The configuration cannot be used. `problems` holds one line each."""

    def __init__(self, *problems: str) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems


def load(
    config: Path | None = None,
    presets: Sequence[str] = (),
    *,
    host: str | None = None,
    port: int | None = None,
    environ: Mapping[str, str] = os.environ,
) -> Settings:
    """The effective settings. `presets` add services; with them only an explicit `config` is read.

    Raises `ConfigError`.
    """
    path = config if config or presets else _find_file(environ)
    tree = read_toml(path) if path else {}
    problems = _add_presets(tree, presets if path or presets else (DEFAULT_PRESET,))
    overrides, refused = _from_environment(environ, _services_of(tree))
    problems += refused
    tree = deep_merge(tree, overrides)
    given = {key: value for key, value in (("host", host), ("port", port)) if value is not None}
    tree = deep_merge(tree, {"server": given} if given else {})
    problems += _inherit_presets(tree)
    try:
        settings = Settings.model_validate(tree)
    except ValidationError as exc:
        raise ConfigError(*problems, *describe(exc)) from exc
    problems += access.problems(settings.metrics, environ)
    if not problems and not settings.services:
        problems.append(f"{path}: no service; add a [services.NAME] table, or use --preset")
    if problems:
        raise ConfigError(*problems)
    return settings


def files(config: Path | None, presets: Sequence[str], environ: Mapping[str, str] = os.environ) -> tuple[Path, ...]:
    """What `load` reads, or would read if it were there."""
    named = environ.get(CONFIG_VARIABLE)
    path = config or (None if presets else Path(named) if named else DEFAULT_FILE)
    return () if path is None else (path,)


def deep_merge(base: Mapping[str, Any], over: Mapping[str, Any]) -> Table:
    """`base` with `over` on top: tables merge, everything else replaces. Neither argument is changed."""
    merged = dict(base)
    for key, value in over.items():
        below = merged.get(key)
        merged[key] = deep_merge(below, value) if _is_table(below) and _is_table(value) else value
    return merged


def read_toml(path: Path) -> Table:
    """The file's content; a file that is missing, unreadable or not TOML is a `ConfigError`."""
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as exc:
        raise ConfigError(f"{path}: {exc.strerror}") from exc
    except UnicodeDecodeError as exc:
        raise ConfigError(f"{path}: not UTF-8: {exc.reason} at byte {exc.start}") from exc
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as exc:
        end = f"at line {len(text.splitlines())}, the end of the file"
        raise ConfigError(f"{path}: {str(exc).replace('at end of document', end)}") from exc


@cache
def preset_names() -> tuple[str, ...]:
    """The presets that come with the package, sorted."""
    files = resources.files("gguf_server").joinpath("presets").iterdir()
    return tuple(sorted(file.name.removesuffix(".toml") for file in files if file.name.endswith(".toml")))


def read_preset(name: str) -> Table:
    """The service table of a preset; `name` is one of `preset_names()`."""
    return tomllib.loads(preset_file(name).read_text(encoding="utf-8"))


def preset_file(name: str) -> Path:
    return Path(str(resources.files("gguf_server").joinpath("presets", f"{name}.toml")))


def _find_file(environ: Mapping[str, str]) -> Path | None:
    if named := environ.get(CONFIG_VARIABLE):
        return Path(named)
    return DEFAULT_FILE if DEFAULT_FILE.exists() else None


def _is_table(value: object) -> TypeGuard[Table]:
    return isinstance(value, dict)


def _services_of(tree: Table) -> Table:
    """The services as far as they can be told before validation: whatever is not a table is left to that."""
    services = tree.get("services")
    return services if _is_table(services) else {}


def _add_presets(tree: Table, names: Iterable[str]) -> list[str]:
    """Puts an empty service per preset into `tree`; one that the file has keeps what the file says."""
    tree.setdefault("services", {})
    problems = []
    for name in names:
        if name in preset_names():
            _services_of(tree).setdefault(name, {})
        else:
            problems.append(_unknown_preset(name))
    return problems


def _inherit_presets(tree: Table) -> list[str]:
    """Merges every service onto its preset, in place. One whose preset cannot be told is taken out and reported."""
    problems = []
    services = _services_of(tree)
    for name, service in list(services.items()):
        if not _is_table(service):
            continue
        preset = service.get("preset", name if name in preset_names() else None)
        split = {f"{name}.{key}" for key in service}.intersection(preset_names())
        if preset in preset_names():
            services[name] = deep_merge({**read_preset(preset), "preset": preset}, service)
        elif isinstance(preset, str):
            problems.append(f"{dotted(('services', name, 'preset'))}: {_unknown_preset(preset)}")
            del services[name]
        elif split:
            quoted = dotted(("services", *split))
            problems.append(f"services.{min(split)}: a name with a dot goes in quotes: [{quoted}]")
            del services[name]
    return problems


def _unknown_preset(name: str) -> str:
    return f"unknown preset {name!r}{did_you_mean(name, preset_names())}"


def _from_environment(environ: Mapping[str, str], services: Iterable[str]) -> tuple[Table, list[str]]:
    """The tree that the variables spell, and a line for each that spells no setting.

    Lists are written as JSON. An empty variable counts as not set. The lines hold no value: it may be a secret.
    """
    settings = _variables(services)
    reserved = {CONFIG_VARIABLE, KEYS_VARIABLE, ADMIN_KEYS_VARIABLE, ADMIN_KEY_VARIABLE, access.KEY_VARIABLE}
    known = [name.removeprefix(ENV_PREFIX) for name in (*settings, *reserved)]
    tree: Table = {}
    problems = []
    for variable, text in sorted(environ.items()):
        if not variable.startswith(ENV_PREFIX) or variable in reserved:
            continue
        found = settings.get(variable.upper())
        if found is None:
            hint = did_you_mean(variable.removeprefix(ENV_PREFIX).upper(), known, prefix=ENV_PREFIX)
            problems.append(f"{variable}: no such setting{hint}")
        elif text:
            path, is_list = found
            try:
                value: Any = json.loads(text) if is_list else text
            except ValueError:
                problems.append(f"{variable}: expected a JSON list")
                continue
            for key in reversed(path):
                value = {key: value}
            tree = deep_merge(tree, value)
    return tree, problems


def _variables(services: Iterable[str]) -> dict[str, tuple[tuple[str, ...], bool]]:
    """Environment variable → where its setting is, and whether that is a list.

    A service's name may also be spelt with `_` for what a shell does not allow (`QWEN2_5` is `qwen2.5`).
    """
    settings = list(every_setting(tuple(services)))
    spelt = {_variable(re.sub(r"\W", "_", part) for part in path): (path, is_list) for path, is_list in settings}
    return spelt | {_variable(path): (path, is_list) for path, is_list in settings}


def _variable(path: Iterable[str]) -> str:
    return ENV_PREFIX + "__".join(path).upper()
