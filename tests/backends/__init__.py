"""Engines against real processes; `ends` is how a test waits for one that is not its child."""

from __future__ import annotations

import os
import select


def ends(pid: int, *, within_s: float = 10.0) -> bool:
    """Whether process `pid` ends in time; blocks until it does. True for one that is no longer there."""
    try:
        pidfd = os.pidfd_open(pid)
    except ProcessLookupError:
        return True
    try:
        return bool(select.select([pidfd], [], [], within_s)[0])
    finally:
        os.close(pidfd)
