"""What is shown of an engine's output once it serves; before that nobody has asked it anything.

vLLM and llama-server print pieces of requests and answers where something is wrong with one: messages of exceptions,
names of tools, grammars. Of such a line is kept what the program alone makes: its origin, the frames of a traceback,
the kind of an exception, and texts that are known to hold nothing else. The rest becomes `…`.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Final

_ORIGIN: Final = re.compile(
    r"(\x1b\[[0-9;]*m)*(\(\w+[^()]{0,80}\)\s*)?(\x1b\[[0-9;]*m)*"
    r"([A-Z]+ \d\d-\d\d \d\d:\d\d:\d\d(\.\d+)? (\[[^\]\s]{1,80}\] ?)?|[A-Z]{4,8}: +)?"
)
_OF_A_TRACEBACK: Final = re.compile(
    r'\s*File "[^"]+", line \d+(, in \S+)?|Traceback \(most recent call last\):|\s*[\^~]+|\s*'
    r"|During handling of the above exception, another exception occurred:"
    r"|The above exception was the direct cause of the following exception:"
)
_EXCEPTION: Final = re.compile(r"([\w.]*(?:Error|Exception|Interrupt|Exit|Failure)): ")

Show = Callable[[str], str]


def showing(known: str) -> Show:
    """What keeps, besides, the lines in which the regular expression `known` is found."""
    harmless = re.compile(known)

    def show(line: str) -> str:
        origin = _ORIGIN.match(line)
        begin = origin.end() if origin else 0
        text = line[begin:]
        if _OF_A_TRACEBACK.fullmatch(text) or harmless.search(text):
            return line
        exception = _EXCEPTION.match(text)
        return f"{line[:begin]}{exception[0] if exception else ''}…"

    return show
