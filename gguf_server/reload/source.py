"""Where the settings came from at the start, to be read again."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from gguf_server import config
from gguf_server.settings import Settings


@dataclass(frozen=True, slots=True)
class Source:
    """What the command line said; the environment is that of the start."""

    config: Path | None = None
    presets: tuple[str, ...] = ()
    host: str | None = None
    port: int | None = None

    def load(self) -> Settings:
        """Raises `ConfigError`. Blocks for as long as files take."""
        return config.load(self.config, self.presets, host=self.host, port=self.port)

    def files(self, settings: Settings) -> tuple[Path, ...]:
        """The configuration's file, and those of the presets in use."""
        presets = {service.preset for service in settings.services.values() if service.preset is not None}
        return (*config.files(self.config, self.presets), *map(config.preset_file, sorted(presets)))
