"""`gguf-server doctor`: what is right and wrong here, a line for each thing, and the command that mends it."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import structlog
import typer

from gguf_server import config
from gguf_server.commands.model_description import printable
from gguf_server.doctor import machine_facts, service_facts, surroundings_facts, weight_facts
from gguf_server.doctor.finding import Finding, Verdict, as_json, exit_status
from gguf_server.doctor.machine_checks import check_machine
from gguf_server.doctor.service_checks import check_service, check_vllms
from gguf_server.doctor.surroundings_checks import (
    check_cache,
    check_certificate,
    check_config,
    check_keys,
    check_port,
)
from gguf_server.doctor.weight_checks import check_weights
from gguf_server.settings import Settings

_COLOURS: Final = {Verdict.OK: "green", Verdict.WARNING: "yellow", Verdict.BROKEN: "red"}


def doctor(config_file: Path | None, presets: Sequence[str], *, json_wanted: bool) -> int:
    """Print what was found. The exit status: 1 where something is broken."""
    with _nothing_logged():
        findings = examine(config_file, presets)
    if json_wanted:
        typer.echo(json.dumps(as_json(findings), indent=2))
    else:
        _print(findings)
    return exit_status(findings)


def examine(config_file: Path | None, presets: Sequence[str]) -> list[Finding]:
    """Takes some seconds: interpreters and servers are asked."""
    machine = machine_facts.look(os.environ.get("CUDA_VISIBLE_DEVICES"))
    findings = [*check_machine(machine)]
    settings, problems = _settings(config_file, presets)
    findings += check_config(settings, problems)
    if settings is None:
        return [*findings, check_cache(surroundings_facts.look_at_cache(), 0)]
    services = asyncio.run(service_facts.look(settings))
    weights = weight_facts.look(settings)
    findings += check_vllms(services, machine)
    findings += map(check_weights, weights)
    findings.append(check_cache(surroundings_facts.look_at_cache(), sum(it.missing is not None for it in weights)))
    findings += map(check_port, surroundings_facts.look_at_ports(settings))
    findings.append(check_keys(surroundings_facts.look_at_keys(settings)))
    findings += check_certificate(settings.tls)
    for service in services:
        findings += check_service(service, machine)
    return findings


def _settings(config_file: Path | None, presets: Sequence[str]) -> tuple[Settings | None, tuple[str, ...]]:
    try:
        return config.load(config_file, presets), ()
    except config.ConfigError as error:
        return None, tuple(error.problems)


def _print(findings: Sequence[Finding]) -> None:
    for finding in findings:
        verdict = typer.style(f"{finding.verdict:<8}", fg=_COLOURS[finding.verdict])
        subject = f"{finding.subject}: " if finding.subject else ""
        typer.echo(f"{verdict} {finding.check:<13} {printable(subject + finding.message, n_most=1000)}")
        if finding.remedy:
            typer.echo(f"{'':<22} → {finding.remedy}")
    n_broken, n_warnings = (
        sum(it.verdict is verdict for it in findings) for verdict in (Verdict.BROKEN, Verdict.WARNING)
    )
    typer.echo(f"\n{n_broken} broken, {n_warnings} to look at, {len(findings) - n_broken - n_warnings} ok")


@contextmanager
def _nothing_logged() -> Iterator[None]:
    """What engines would log of their plans is said in findings."""
    before = structlog.get_config()
    structlog.configure(processors=[_drop])
    try:
        yield
    finally:
        structlog.configure(**before)


def _drop(*_: object) -> str:
    raise structlog.DropEvent
