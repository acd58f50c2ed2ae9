"""Measures OpenAI-compatible servers by HTTP. Modules beside the packages are programs: `python -m bench.NAME`."""
