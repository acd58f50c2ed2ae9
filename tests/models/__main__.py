"""`python -m tests.models NAME FILE`: a model on disk, to try or to measure with.

python -m tests.models gemma3-270m FILE --n-vocab 262144 --weights Q4_0
"""

from __future__ import annotations

import argparse
from pathlib import Path

from tests.models import MODELS, ModelOptions, write


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.models")
    parser.add_argument("name", choices=sorted(MODELS))
    parser.add_argument("file", type=Path)
    parser.add_argument("--n-vocab", type=int, default=0, help="pad the vocabulary to this many tokens")
    parser.add_argument("--weights", choices=["F32", "F16", "Q8_0", "Q4_0"], default="F32")
    parser.add_argument("--seed", type=int, default=1)
    given = parser.parse_args()
    path = write(given.name, given.file, ModelOptions(given.n_vocab, given.weights, given.seed))
    print(f"{path}: {path.stat().st_size / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
