"""What every table of the configuration is."""

from __future__ import annotations

from typing import Final

from pydantic import BaseModel, ConfigDict

ADMIN_PATH: Final = "/admin"
"""Of the shared listener; no service's."""


class Strict(BaseModel):
    """A configuration table: unknown keys are refused, values are frozen once read."""

    model_config = ConfigDict(extra="forbid", frozen=True)
