"""All that the suite needs before it can run: `python -m tests.vllm`. A second time finds it done."""

from __future__ import annotations

from tests.vllm import environments, models

environments.main()
models.main()
