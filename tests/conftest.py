"""For every test."""

from __future__ import annotations

from hypothesis import HealthCheck, settings

# The same examples on every machine, and no judgement on how fast it is.
settings.register_profile("repeatable", deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("repeatable")
