"""`python -m backends.llamacpp.build_report`: how llama.cpp was built, as JSON, or its `error` on being loaded."""

from __future__ import annotations

import json


def main() -> None:
    try:
        from backends.llamacpp.native.build import describe

        report = describe()
    except (ImportError, OSError, RuntimeError, AttributeError) as error:  # as llama_cpp raises them for its library
        report = {"error": f"{type(error).__name__}: {error}"}
    print(json.dumps(report))


if __name__ == "__main__":
    main()
