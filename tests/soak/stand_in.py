"""A fake engine where the gateway expects vLLM: `vllm serve` of an environment that has nothing but this.

Its own flags are those behind `--fake` (the settings' `extra_args`); of vLLM's it obeys the socket and the key.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path

from tests.backends import fake_engine
from tests.backends.vllm_installation import PLAIN, install

_SCRIPT = """\
#!/bin/sh
exec '{python}' -m tests.soak.stand_in "$@"
"""


def environment_with_vllm(root: Path) -> Path:
    """The interpreter of a virtual environment in `root` that seems to have a vLLM."""
    minor = f"{sys.version_info.major}.{sys.version_info.minor}"
    install(root / "lib" / f"python{minor}" / "site-packages", PLAIN)
    (root / "bin").mkdir()
    python = root / "bin" / "python"
    python.write_text(_SCRIPT.format(python=sys.executable))
    python.chmod(0o755)
    (root / "pyvenv.cfg").write_text(f"home = {Path(sys.executable).parent}\nversion = {minor}\n")
    return python


def fake_flags(arguments: Sequence[str]) -> list[str]:
    """Of the fake engine, from the command line of a `vllm serve`."""
    return ["--uds", arguments[arguments.index("--uds") + 1], *arguments[arguments.index("--fake") + 1 :]]


if __name__ == "__main__":
    os.environ["FAKE_ENGINE_KEY"] = os.environ["VLLM_API_KEY"]
    sys.argv[1:] = fake_flags(sys.argv[1:])
    fake_engine.main()
