"""From the settings in force and new ones to what has to be done: a function, without a process or a socket.

What only the gateway uses is changed in place. An engine that would be asked to be something else needs another
process: a new chain of engines is started beside the old one and takes over when it is up, or, where both need the
same card or port, after the old one has made room.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, TypeAlias

from gguf_server import engines
from gguf_server.settings import DocsSettings, ServiceSettings, Settings, Strict
from gguf_server.settings.engines import EngineSettings, VllmEngineSettings
from gguf_server.settings.limits import LimitsSettings
from gguf_server.settings.listening import CorsSettings
from gguf_server.settings.ui import UiSettings

LIVE: Final[Mapping[str, frozenset[str]]] = {
    "server": frozenset(
        {"allowed_hosts", "drain_s", "keys_file", "log_format", "log_level", "max_body_bytes", "watch"}
    ),
    "limits": frozenset(name for name in LimitsSettings.model_fields if not name.startswith("store")),
    "connections": frozenset({"trusted_proxies"}),
    "cors": frozenset(CorsSettings.model_fields),
    "docs": frozenset(DocsSettings.model_fields),
    "ui": frozenset(UiSettings.model_fields),
}
"""By table, the settings that need no restart. Of a table that is not here all are read at the start only."""

_ANY_CARD: Final = -1


@dataclass(frozen=True, slots=True)
class Add:
    """`after`: services whose engines have to be gone first."""

    name: str
    settings: ServiceSettings
    after: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Remove:
    name: str


@dataclass(frozen=True, slots=True)
class Change:
    """`what` names the settings that differ."""

    name: str
    settings: ServiceSettings
    what: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Replace:
    """Other engines. `after` as in `Add`. Where they are not `is_beside` the service's old engines make room first."""

    name: str
    settings: ServiceSettings
    what: tuple[str, ...]
    after: tuple[str, ...] = ()
    is_beside: bool = True


@dataclass(frozen=True, slots=True)
class ChangeTable:
    """Settings of no one service."""

    table: str
    what: tuple[str, ...]


Action: TypeAlias = Add | Remove | Change | Replace | ChangeTable


@dataclass(frozen=True, slots=True)
class Plan:
    """`settings` are those that will be in force; `needs_restart` names those that cannot be, dotted."""

    settings: Settings
    actions: tuple[Action, ...] = ()
    needs_restart: tuple[str, ...] = ()


def plan(
    old: Settings,
    new: Settings,
    *,
    built: Mapping[str, ServiceSettings] | None = None,
    leaving: Sequence[tuple[str, ServiceSettings]] = (),
    has_cards: bool = False,
) -> Plan:
    """`built`: what the engines of a service were made from, where that is not its settings in `old`.

    `leaving`: services some of whose engines an earlier plan ends, and which those are.
    """
    made = {**old.services, **(built or {})}
    tables: dict[str, Any] = {}
    actions: list[Action] = []
    needs_restart: list[str] = []
    for table in (name for name in Settings.model_fields if name != "services"):
        tables[table], fixed = _in_force(table, getattr(old, table), getattr(new, table))
        needs_restart += [f"{table}.{key}" for key in fixed]
        if what := _differences(getattr(old, table), tables[table]):
            actions.append(ChangeTable(table, what))
    actions += [Remove(name) for name in old.services if name not in new.services]
    fresh = {name: of for name, of in new.services.items() if needs_engines(made.get(name), of)}
    ending = {name: of for name, of in made.items() if name not in new.services or name in fresh}
    holders = {name: _holders(name, of, ending, fresh, has_cards=has_cards) for name, of in fresh.items()}
    after = {
        name: tuple(dict.fromkeys([*holders[name], *_clashing(of, leaving, has_cards=has_cards)]))
        for name, of in fresh.items()
    }
    for name, of in new.services.items():
        was = old.services.get(name)
        if was is None:
            actions.append(Add(name, of, after[name]))
        elif name in fresh:
            actions.append(Replace(name, of, _differences(was, of), after[name], name not in holders[name]))
        elif what := _differences(was, of):
            actions.append(Change(name, of, what))
    return Plan(new.model_copy(update=tables), tuple(actions), tuple(needs_restart))


def _in_force(table: str, old: Strict, new: Strict) -> tuple[Strict, list[str]]:
    """The table in which what may change has done so, and the names of the rest."""
    fixed = [key for key in _differences(old, new) if key not in LIVE.get(table, frozenset())]
    return new.model_copy(update={key: getattr(old, key) for key in fixed}), fixed


def _differences(old: Any, new: Any) -> tuple[str, ...]:
    return tuple(key for key in type(new).model_fields if getattr(old, key) != getattr(new, key))


def needs_engines(built: ServiceSettings | None, new: ServiceSettings) -> bool:
    """Whether the engines that there are will not do.

    Aliases are known to the gateway alone. Fewer requests at once than the engines were made for they can do.
    """
    if built is None:
        return True
    asked = {"aliases": built.aliases, "max_concurrent": max(new.max_concurrent, built.max_concurrent)}
    return engines.blueprint(built) != engines.blueprint(new.model_copy(update=asked))


def _holders(
    name: str,
    of: ServiceSettings,
    ending: Mapping[str, ServiceSettings],
    fresh: Mapping[str, ServiceSettings],
    *,
    has_cards: bool,
) -> list[str]:
    """Services of this plan whose engines have to go before these can come.

    Who waits for another's replacement makes room itself at once: two that exchange their cards would wait forever.
    """
    holders = _clashing(of, ending.items(), has_cards=has_cards)
    if name in ending and name not in holders and any(other in fresh for other in holders):
        holders.append(name)
    return holders


def _clashing(of: ServiceSettings, others: Iterable[tuple[str, ServiceSettings]], *, has_cards: bool) -> list[str]:
    wants = _claims(of, has_cards=has_cards)
    return [other for other, built in others if _clash(wants, _claims(built, has_cards=has_cards))]


@dataclass(frozen=True, slots=True)
class _Claims:
    """What only one chain can have at a time."""

    cards: set[int] = field(default_factory=set)
    ports: set[int] = field(default_factory=set)


def _claims(service: ServiceSettings, *, has_cards: bool) -> _Claims:
    cards = {card for engine in service.engines if (card := _card(engine)) is not None}
    listens = any(isinstance(engine, VllmEngineSettings) for engine in service.engines)
    port = service.engine_port if listens else None
    return _Claims(cards if has_cards else set(), {port} if port else set())


def _card(engine: EngineSettings) -> int | None:
    if engine.kind == "openai" or (engine.kind != "vllm" and engine.device == "cpu"):
        return None
    return _ANY_CARD if engine.cuda_device is None else engine.cuda_device


def _clash(one: _Claims, other: _Claims) -> bool:
    cards = one.cards | other.cards
    is_any = bool(one.cards and other.cards) and _ANY_CARD in cards
    return is_any or bool(one.cards & other.cards) or bool(one.ports & other.ports)
