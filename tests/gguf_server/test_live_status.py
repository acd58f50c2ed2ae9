"""What `/status` says of the last minute, by a gateway over engines that fail."""

from __future__ import annotations

from gguf_server.api.ops_answers import ServiceStatus
from tests.gguf_server.gateway import gateway


async def test_status_tells_how_fast_the_last_answers_were() -> None:
    async with gateway(("--answer-words", "40", "--token-s", "0.001")) as gate:
        await gate.until_up("a")
        assert (await gate.ask(stream=True)).is_done
        assert (await gate.ask()).status == 200
        _, status = await gate.get("/status")
        live = status["live"]
        assert live["window_s"] == 60.0
        assert live["requests_per_min"] == 2.0
        assert live["tokens_per_s"] == round(80 / 60, 1)
        assert 0 <= live["ttft_s"]["p50"] == live["ttft_s"]["p95"]
        assert live["errors"] == 0
        assert live["recent_failovers"] == []


async def test_status_tells_which_engine_failed_whom_and_who_took_over() -> None:
    async with gateway(("--answer-words", "40"), ("--answer-words", "40"), standby="warm") as gate:
        await gate.until_up("a", "b")
        await gate.arm("a", "exit", after_words=5, code=3)
        reply = await gate.ask(stream=True)
        assert (reply.is_done, reply.error) == (True, None)
        await gate.until(lambda: gate.link("a").serving is None)
        _, status = await gate.get("/status")
        assert ServiceStatus.model_validate(status).live.recent_failovers[0].source == "a"
        newest_last = reversed(status["live"]["recent_failovers"])
        told = {entry["scope"]: entry for entry in newest_last}
        assert (told["request"]["from"], told["request"]["to"], told["request"]["reason"]) == ("a", "b", "broke_off")
        assert (told["service"]["from"], told["service"]["to"]) == ("a", "b")
        assert told["request"]["at"] <= status["timestamp"]
