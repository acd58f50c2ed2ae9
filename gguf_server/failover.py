"""What a chain of engines does next: a function of what its engines are now, without a clock, a process or a socket.

    phase      meaning                                             holds its card
    down       no process                                          no
    starting   loading                                             yes
    up         answers                                             yes
    ending     being ended, its card's memory not yet given back   yes

Of the engines that are up the first in the chain serves. Where none is, the next in order is started, each after a
pause that grows with its failures in a row. While one serves, the ones before it are tried again in the background
(after longer pauses), and with a warm standby one after it is kept up as well. Two engines that need the same card
are never up together: to go back from one to the other, the one that serves is ended first, and only while idle.

What an operator wants goes before that: an engine that is wanted is started at once, and those in its way are held,
which get nothing new and are ended as soon as what they do is done. While nothing but held ones are up, nothing else
is started: the requests of that time wait.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

ANY_CARD: Final = -1

_FIRST_RESTART_S: Final = 1.0
_LONGEST_RESTART_S: Final = 60.0
_SWAP_FACTOR: Final = 10  # a swap that fails has cost the service a load of each of the two
_SWAP_IDLE_S: Final = 30.0


class Phase(StrEnum):
    DOWN = "down"
    STARTING = "starting"
    UP = "up"
    ENDING = "ending"


@dataclass(frozen=True, slots=True)
class Rules:
    """Of one service; seconds."""

    warm_standby: bool = False
    failback: bool = True
    failback_after_s: float = 30.0
    failback_longest_s: float = 1800.0
    stable_after_s: float = 60.0


@dataclass(frozen=True, slots=True)
class LinkView:
    """One engine as the decision sees it. Times are the event loop's.

    `n_failures`: in a row. `card`: index of the one it computes on, `ANY_CARD` where that is not said, None for none.
    `is_hopeless`: it failed for a reason that another try will not mend. `idle_since` and `up_since` while it is up.
    `is_wanted`: an operator's wish, until it is up or has failed. `is_held`: nothing new goes to it.
    """

    phase: Phase = Phase.DOWN
    n_failures: int = 0
    failed_at: float = 0.0
    is_hopeless: bool = False
    card: int | None = None
    up_since: float = 0.0
    idle_since: float | None = None
    is_wanted: bool = False
    is_held: bool = False


@dataclass(frozen=True, slots=True)
class Decision:
    """Numbers of engines to start, to end and to hold now. `wake_at`: when time alone may change the answer.

    `swap_to`: some of `end` or `hold` make room for this one. `is_exhausted`: nothing is up and nothing is about to be.
    """

    serve: int | None
    start: tuple[int, ...] = ()
    end: tuple[int, ...] = ()
    hold: tuple[int, ...] = ()
    swap_to: int | None = None
    wake_at: float | None = None
    is_exhausted: bool = False


def decide(links: Sequence[LinkView], rules: Rules, *, now: float, first: int = 0) -> Decision:
    """What to do now. `first`: with nothing up, the engine that is wanted most; those after it come before the rest."""
    up = _serving(links)
    held = [i for i, link in enumerate(links) if link.is_held]
    done = [i for i in held if links[i].phase is Phase.UP and links[i].idle_since is not None]
    if not up:
        return Decision(None, end=tuple(done)) if held else _without_any(links, rules, now=now, first=first)
    serve = up[0]
    wake: list[float] = []
    end, may_end_at = _superfluous(links, rules, serve, now)
    end += done
    wake += may_end_at
    start: list[int] = []
    hold: list[int] = []
    swap_to: int | None = None
    if not _in_phase(links[:serve], Phase.STARTING):
        better, at = _better(links, rules, serve, now)
        wake += at
        if better is not None:
            rivals = _rivals(links, better)
            if not rivals:
                start.append(better)
            elif links[better].is_wanted:
                hold = [i for i in rivals if links[i].phase is Phase.UP and not links[i].is_held]
                swap_to = better if hold else None
            elif all(links[i].phase is Phase.UP for i in rivals):
                swap_to, end = better, [*end, *rivals]
    if rules.warm_standby and swap_to is None:
        standby, at = _standby(links, rules, serve, now, also=start)
        start += standby
        wake += at
    return Decision(serve, tuple(start), tuple(end), tuple(hold), swap_to, min(wake, default=None))


def restart_at(link: LinkView) -> float:
    """When an engine that failed may be started again, where nothing else serves."""
    if not link.n_failures:
        return 0.0
    return link.failed_at + _doubling(_FIRST_RESTART_S, link.n_failures, _LONGEST_RESTART_S)


def failback_at(link: LinkView, rules: Rules, *, swap: bool) -> float:
    """When it may be tried in the background; later where another has to make room for it."""
    if not link.n_failures:
        return 0.0
    first_s = rules.failback_after_s * (_SWAP_FACTOR if swap else 1)
    at = link.failed_at + _doubling(first_s, link.n_failures, rules.failback_longest_s)
    return max(at, restart_at(link))


def _doubling(first_s: float, n: int, longest_s: float) -> float:
    return min(first_s * 2.0 ** min(n - 1, 32), longest_s)


def _without_any(links: Sequence[LinkView], rules: Rules, *, now: float, first: int) -> Decision:
    starting = _in_phase(links, Phase.STARTING)
    n = len(links)
    order = [(first + offset) % n for offset in range(n)]
    down = [i for i in order if links[i].phase is Phase.DOWN]
    due = [i for i in down if restart_at(links[i]) <= now]
    start: list[int] = []
    wake = [restart_at(links[i]) for i in down if restart_at(links[i]) > now]
    if not starting and due and not _rivals(links, due[0]):
        start.append(due[0])
    if rules.warm_standby and (lead := [*starting, *start]):
        standby, at = _standby(links, rules, lead[0], now, also=start)
        start += standby
        wake += at
    is_exhausted = not starting and not due
    return Decision(None, tuple(start), wake_at=min(wake, default=None), is_exhausted=is_exhausted)


def _superfluous(links: Sequence[LinkView], rules: Rules, serve: int, now: float) -> tuple[list[int], list[float]]:
    """Engines up behind the one that serves, idle and not wanted as a standby, once that one has proved stable."""
    others = [i for i in _serving(links) if i != serve]
    if rules.warm_standby:
        others = others[1:]
    stable_at = links[serve].up_since + rules.stable_after_s
    if others and now < stable_at:
        return [], [stable_at]
    return [i for i in others if links[i].idle_since is not None], []


def _better(links: Sequence[LinkView], rules: Rules, serve: int, now: float) -> tuple[int | None, list[float]]:
    """The first engine before the serving one that may be tried now, and when others may."""
    wake: list[float] = []
    for i in range(serve):
        if links[i].phase is not Phase.DOWN:
            continue
        if links[i].is_wanted:
            return i, wake
        if not rules.failback:
            continue
        rivals = _rivals(links, i)
        if rivals and links[i].is_hopeless:
            continue
        at = failback_at(links[i], rules, swap=bool(rivals))
        idle_since = [links[rival].idle_since for rival in rivals]
        if None in idle_since:
            continue  # whoever becomes idle wakes the owner
        at = max(at, *(since + _SWAP_IDLE_S for since in idle_since if since is not None)) if rivals else at
        if at <= now:
            return i, wake
        wake.append(at)
    return None, wake


def _standby(
    links: Sequence[LinkView], rules: Rules, lead: int, now: float, *, also: Iterable[int]
) -> tuple[list[int], list[float]]:
    """The engine to start as a standby, if one is wanting; `also`: started in the same moment."""
    behind = range(lead + 1, len(links))
    if any(links[i].phase in (Phase.UP, Phase.STARTING) for i in behind):
        return [], []
    wake: list[float] = []
    for i in behind:
        if links[i].phase is not Phase.DOWN or _rivals(links, i) or any(_share(links[i], links[j]) for j in also):
            continue
        if (at := failback_at(links[i], rules, swap=False)) <= now:
            return [i], wake
        wake.append(at)
    return [], wake


def _serving(links: Sequence[LinkView]) -> list[int]:
    """Those that new requests may go to."""
    return [i for i in _in_phase(links, Phase.UP) if not links[i].is_held]


def _in_phase(links: Sequence[LinkView], phase: Phase) -> list[int]:
    return [i for i, link in enumerate(links) if link.phase is phase]


def _rivals(links: Sequence[LinkView], number: int) -> list[int]:
    """Engines that hold the card which this one needs."""
    wants = links[number]
    return [i for i, link in enumerate(links) if i != number and link.phase is not Phase.DOWN and _share(link, wants)]


def _share(one: LinkView, other: LinkView) -> bool:
    if one.card is None or other.card is None:
        return False
    return one.card == other.card or ANY_CARD in (one.card, other.card)
