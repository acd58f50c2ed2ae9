"""A process that renders one chat template, and nothing else.

A chat template is a program inside a model file that somebody else made. It runs in jinja2's immutable sandbox, in a
process of its own with little memory, so that what it can do at worst is to be killed for it; and the step thread
never waits for the interpreter lock while a long conversation is rendered.

Protocol, on stdin and stdout: JSON lines. The first names the template; each further one is a request, answered by
`{"text": …}` or `{"error": …}`. The caller keeps the time.
"""

from __future__ import annotations

import json
import resource
import sys
from datetime import datetime
from typing import Any, NoReturn

import jinja2
from jinja2 import nodes
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

MAX_MEMORY_BYTES = 1 << 30
MAX_OUTPUT_CHARS = 32 << 20


class _Generation(Extension):
    """`{% generation %}`, which some templates put around the assistant's text for training, means nothing here."""

    tags = {"generation"}  # noqa: RUF012 - jinja2 declares it so

    def parse(self, parser: Parser) -> list[nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


class _RefusedByTemplate(Exception):
    """The template called `raise_exception`: its message is meant for the caller."""


def _raise_exception(message: object) -> NoReturn:
    raise _RefusedByTemplate(str(message)[:500])


def _strftime_now(layout: str) -> str:
    return datetime.now().astimezone().strftime(layout)


def _tojson(value: object, indent: int | None = None, ensure_ascii: bool = False, **_: object) -> str:
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent)


def make_environment() -> ImmutableSandboxedEnvironment:
    """The names and white-space rules that chat templates are written against (transformers' own)."""
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, optimized=False, extensions=[loopcontrols, _Generation]
    )
    environment.filters["tojson"] = _tojson
    environment.globals["raise_exception"] = _raise_exception
    environment.globals["strftime_now"] = _strftime_now
    return environment


def render(template: jinja2.Template, variables: dict[str, Any]) -> str:
    """The rendered text. Raises `ValueError` when it grows past `MAX_OUTPUT_CHARS`."""
    parts: list[str] = []
    n_chars = 0
    for part in template.generate(**variables):
        n_chars += len(part)
        if n_chars > MAX_OUTPUT_CHARS:
            raise ValueError("the rendered prompt is too large")
        parts.append(part)
    return "".join(parts)


def answer(template: jinja2.Template, variables: dict[str, Any]) -> dict[str, str]:
    try:
        return {"text": render(template, variables)}
    except _RefusedByTemplate as error:
        return {"error": str(error)}
    except MemoryError:
        return {"error": "the chat template needs too much memory"}
    except RecursionError:
        return {"error": "the chat template recurses too deeply"}
    except Exception as error:  # noqa: BLE001 - the boundary of somebody else's program
        return {"error": f"{type(error).__name__}: {error}"[:500]}


def main() -> None:
    resource.setrlimit(resource.RLIMIT_AS, (MAX_MEMORY_BYTES, MAX_MEMORY_BYTES))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    template: jinja2.Template | None = None
    broken = ""
    first = json.loads(sys.stdin.readline() or "{}")
    try:
        template = make_environment().from_string(first["template"], globals=first["globals"])
    except Exception as error:  # noqa: BLE001 - the boundary of somebody else's program
        broken = f"{type(error).__name__}: {error}"[:500]
    for line in sys.stdin:
        request = json.loads(line)
        reply = answer(template, request) if template is not None else {"error": f"it does not compile: {broken}"}
        sys.stdout.write(json.dumps(reply) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
