"""A soak as JSON for programs and as Markdown for people."""

from __future__ import annotations

import json
import os
import platform
from collections import Counter
from dataclasses import asdict
from pathlib import Path
from statistics import median
from typing import Any

from tests.soak.record import Latency, Phase, Soak, elapsed, ends, latency, ttft
from tests.soak.traffic import CLASSES
from tests.soak.verdict import End
from tests.soak.vitals import Trend, trends

_MIB = 1 << 20
_N_SLOWEST = 10
_N_POINTS = 100


def summary(soak: Soak, problems: list[str]) -> dict[str, Any]:
    """Plain values only."""
    overload = soak.phase("overload")
    seen = soak.vitals_of(overload)
    return {
        "passed": not problems,
        "violations": problems,
        "seed": soak.seed,
        "equal_keys": soak.equal_keys,
        "machine": {"cpus": os.cpu_count(), "python": platform.python_version()},
        "capacity_per_s": round(soak.capacity_per_s, 2),
        "answer_s": round(soak.answer_s, 3),
        "phases": {phase.name: round(phase.ended - phase.began, 1) for phase in soak.phases},
        "classes": {phase.name: _classes(soak, phase) for phase in soak.phases},
        "slowest": _slowest(soak, overload),
        "faults": dict(Counter(one.kind for one in soak.sufferings)),
        "suffering_s": {kind: _suffering(soak, kind) for kind in sorted({one.kind for one in soak.sufferings})},
        "chores": soak.n_chores,
        "health": {
            "asked": len(soak.healths),
            "not_200": sum(one.status != 200 for one in soak.healths),
            "longest_s": round(max((one.took_s for one in soak.healths), default=0.0), 3),
        },
        "vitals": {name: asdict(trend) for name, trend in trends(seen).items()},
        "rss_mib": [
            [round(one.at_s - overload.began), round(one.rss_bytes / _MIB, 1)]
            for one in seen[:: max(1, len(seen) // _N_POINTS)]
        ],
        "idle": {name: asdict(one) for name, one in zip(("before", "after"), soak.idle, strict=True)},
        "cpu_share": round((seen[-1].cpu_s - seen[0].cpu_s) / max(seen[-1].at_s - seen[0].at_s, 1e-9), 3),
        "sent_late_s": {"median": round(median(soak.lags_s), 4), "longest": round(max(soak.lags_s), 3)},
    }


def _classes(soak: Soak, phase: Phase) -> dict[str, Any]:
    found = {}
    for one in CLASSES:
        every, calm = soak.of(phase, one.name), soak.of(phase, one.name, undisturbed=True)
        found[one.name] = {
            "sent": len(every),
            "ends": {str(end): n for end, n in ends(every).items()},
            "all": {"ttft": asdict(latency(every, ttft)), "elapsed": asdict(latency(every, elapsed))},
            "undisturbed": {"ttft": asdict(latency(calm, ttft)), "elapsed": asdict(latency(calm, elapsed))},
        }
    return found


def _slowest(soak: Soak, phase: Phase) -> list[dict[str, Any]]:
    """Of the first class, outside of faults: for whoever asks what they waited for."""
    every = sorted(soak.of(phase, CLASSES[0].name, undisturbed=True), key=elapsed, reverse=True)
    return [
        {
            "service": one.service,
            "kind": one.kind,
            "end": str(one.end),
            "at_s": round(one.began - phase.began, 1),
            "ttft_s": one.ttft_s,
            "elapsed_s": one.elapsed_s,
            "after": [
                (fault.kind, round(one.began - fault.ended, 1))
                for fault in soak.sufferings
                if fault.service == one.service and fault.ended <= one.began
            ][-1:],
        }
        for one in every[:_N_SLOWEST]
    ]


def _suffering(soak: Soak, kind: str) -> dict[str, float]:
    times = [one.ended - one.began for one in soak.sufferings if one.kind == kind]
    return {"median": round(median(times), 2), "longest": round(max(times), 2)}


def markdown(soak: Soak, problems: list[str]) -> str:
    return "\n".join(
        [
            f"# Soak: {'passed' if not problems else 'FAILED'}",
            "",
            *(f"- {problem}" for problem in problems),
            *([""] if problems else []),
            f"Seed {soak.seed}; capacity {soak.capacity_per_s:.1f} requests/s; "
            + "; ".join(f"{phase.name} {phase.ended - phase.began:.0f} s" for phase in soak.phases)
            + ("; all keys alike" if soak.equal_keys else ""),
            "",
            *_class_table(soak),
            "",
            "Times are p50 / p95 of whole answers, outside of faults (and with them).",
            "",
            *_vital_table(soak),
            "",
            f"Faults: {', '.join(f'{n} {kind}' for kind, n in Counter(one.kind for one in soak.sufferings).items())}.",
            f"Meanwhile: {', '.join(f'{n} {chore}' for chore, n in soak.n_chores.items())}.",
            "",
        ]
    )


def _class_table(soak: Soak) -> list[str]:
    rows = ["| phase | keys | sent | " + " | ".join(End) + " | first word, s | whole answer, s |"]
    rows.append("|" + "---|" * (len(End) + 5))
    for phase in soak.phases:
        for one in CLASSES:
            every, calm = soak.of(phase, one.name), soak.of(phase, one.name, undisturbed=True)
            met = ends(every)
            times = [f"{_text(latency(calm, of))} ({_text(latency(every, of))})" for of in (ttft, elapsed)]
            cells = [phase.name, one.name, str(len(every)), *(str(met[end]) for end in End), *times]
            rows.append(f"| {' | '.join(cells)} |")
    return rows


def _text(of: Latency) -> str:
    return "-" if of.p50_s is None or of.p95_s is None else f"{of.p50_s:.2f} / {of.p95_s:.2f}"


def _vital_table(soak: Soak) -> list[str]:
    rows = ["| of the gateway | first tenth | last tenth | an hour |", "|---|---|---|---|"]
    for name, trend in trends(soak.vitals_of(soak.phase("overload"))).items():
        scale, unit = (_MIB, " MiB") if name == "rss_bytes" else (1, "")
        rows.append(_vital_row(name, trend, scale, unit))
    return rows


def _vital_row(name: str, trend: Trend, scale: int, unit: str) -> str:
    first, last, per_hour = (f"{value / scale:.1f}{unit}" for value in (trend.first, trend.last, trend.per_hour))
    return f"| {name} | {first} | {last} | {per_hour} |"


def write(soak: Soak, problems: list[str], folder: Path) -> None:
    """`soak.json` and `soak.md`."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "soak.json").write_text(json.dumps(summary(soak, problems), indent=1) + "\n", encoding="utf-8")
    (folder / "soak.md").write_text(markdown(soak, problems), encoding="utf-8")
