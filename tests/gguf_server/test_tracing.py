"""Spans of requests, in memory and by OTLP on a real socket."""

from __future__ import annotations

import asyncio
import gzip
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import StatusCode, format_span_id, format_trace_id

from gguf_server.settings.observing import TracingSettings
from gguf_server.tracing import Tracing, make_provider
from gguf_server.tracing_switch import TracingUnavailable, tracing
from tests.gguf_server.gateway import gateway

PARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
MARK = "PATIENT-4711"


class Spans:
    """What is traced, as it ends."""

    def __init__(self) -> None:
        self._exporter = InMemorySpanExporter()
        provider = TracerProvider(shutdown_on_exit=False)
        provider.add_span_processor(SimpleSpanProcessor(self._exporter))
        self.tracing = Tracing(provider)

    @property
    def ended(self) -> Sequence[ReadableSpan]:
        return self._exporter.get_finished_spans()

    def named(self, name: str) -> list[ReadableSpan]:
        return [span for span in self.ended if span.name == name]


def said(span: ReadableSpan) -> dict[str, Any]:
    return dict(span.attributes or {})


def id_of(span: ReadableSpan) -> str:
    assert span.context is not None
    return f"00-{format_trace_id(span.context.trace_id)}-{format_span_id(span.context.span_id)}-01"


async def test_a_failover_shows_as_two_attempts_below_the_clients_span(tmp_path: Path) -> None:
    spans, seen = Spans(), tmp_path / "seen"
    engine = ("--answer-words", "4", "--traces", str(seen))
    async with gateway(engine, engine, standby="warm", tracing=spans.tracing) as gate:
        await gate.until_up("a", "b")
        await gate.arm("a", "error_500")
        seen.write_text("")  # the first requests were those of readiness
        gate.session.headers["traceparent"] = PARENT
        reply = await gate.ask(stream=True, messages=[{"role": "user", "content": MARK}])
        assert reply.n_failovers == 1
        asked_with = seen.read_text().split()
    (whole,) = spans.named("POST /v1/chat/completions")
    (queue,) = spans.named("queue")
    first, second = spans.named("chat fake")
    assert whole.parent is not None
    assert format_span_id(whole.parent.span_id) == "b7ad6b7169203331"
    assert whole.context is not None
    assert format_trace_id(whole.context.trace_id) == "0af7651916cd43dd8448eb211c80319c"
    assert [span.parent for span in (queue, first, second)] == [whole.context] * 3
    assert asked_with == [id_of(first), id_of(second)]
    assert (said(first)["gguf_server.engine"], said(first)["error.type"]) == ("a", "answered_5xx")
    assert first.status.status_code is StatusCode.ERROR
    assert (said(second)["gguf_server.engine"], said(second)["gguf_server.failover.reason"]) == ("b", "answered_5xx")
    assert said(second)["gen_ai.usage.output_tokens"] == 4
    assert second.status.status_code is StatusCode.UNSET
    told = said(whole)
    assert (told["http.response.status_code"], told["gguf_server.failovers"], told["gguf_server.engine"]) == (
        200,
        1,
        "b",
    )
    assert told["gen_ai.response.time_to_first_chunk"] > 0
    assert MARK not in "".join(span.to_json() for span in spans.ended)


async def test_a_refused_request_ends_its_span_without_a_word_of_it() -> None:
    spans = Spans()
    async with gateway(("--answer-words", "4"), tracing=spans.tracing) as gate:
        await gate.until_up("a")
        assert (await gate.ask(model=MARK)).status == 404
        assert (await gate.ask(f"/{MARK}")).status == 404
        await gate.get("/status")
    (known,) = spans.named("POST /v1/chat/completions")
    (unknown,) = spans.named("POST")
    assert (said(known)["http.response.status_code"], said(known)["error.type"]) == (404, "model_not_found")
    assert said(unknown)["error.type"] == "not_found"
    assert known.status.status_code is StatusCode.UNSET
    assert len(spans.ended) == 2
    assert MARK not in "".join(span.to_json() for span in spans.ended)


async def test_without_traces_nothing_is_passed_on_to_the_engine(tmp_path: Path) -> None:
    seen = tmp_path / "seen"
    async with gateway(("--answer-words", "1", "--traces", str(seen))) as gate:
        await gate.until_up("a")
        gate.session.headers["traceparent"] = PARENT
        assert (await gate.ask()).status == 200
    assert seen.read_text().split() == []


async def test_spans_reach_a_collector_by_otlp() -> None:
    got: asyncio.Queue[ExportTraceServiceRequest] = asyncio.Queue()

    async def collect(request: web.Request) -> web.Response:
        body = await request.read()
        if request.headers.get("Content-Encoding") == "gzip":
            body = gzip.decompress(body)
        got.put_nowait(ExportTraceServiceRequest.FromString(body))
        return web.Response(body=b"", content_type="application/x-protobuf")

    app = web.Application()
    app.router.add_post("/v1/traces", collect)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    endpoint = f"http://127.0.0.1:{runner.addresses[0][1]}/v1/traces"
    try:
        async with (
            tracing(TracingSettings(endpoint=endpoint)) as traces,
            gateway(("--answer-words", "1"), tracing=traces) as gate,
        ):
            await gate.until_up("a")
            assert (await gate.ask()).status == 200
    finally:
        await runner.cleanup()
    (resource,) = got.get_nowait().resource_spans
    assert "gguf-server" in [attribute.value.string_value for attribute in resource.resource.attributes]
    names = {span.name for scope in resource.scope_spans for span in scope.spans}
    assert names == {"POST /v1/chat/completions", "queue", "chat fake"}


async def test_what_is_configured_and_not_installed_is_said_at_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "gguf_server.tracing", raising=False)
    monkeypatch.setitem(sys.modules, "opentelemetry.sdk.trace", None)
    with pytest.raises(TracingUnavailable, match=r"pip install 'gguf-server\[otel\]'"):
        async with tracing(TracingSettings(endpoint="http://127.0.0.1:4318/v1/traces")):
            pass


def test_without_traces_opentelemetry_is_not_imported() -> None:
    look = "import gguf_server.run, sys; sys.exit(any(name.startswith('opentelemetry') for name in sys.modules))"
    assert subprocess.run([sys.executable, "-c", look], timeout=30).returncode == 0


@pytest.mark.parametrize("endpoint", ["localhost:4318", "ftp://host/", "http://user:secret@host/v1/traces"])
def test_an_endpoint_that_is_none_is_refused_without_repeating_it(endpoint: str) -> None:
    with pytest.raises(ValueError, match=r"expected http://|do not belong here"):
        TracingSettings(endpoint=endpoint)


def test_a_ratio_of_nought_records_nothing_that_no_client_asked_for() -> None:
    provider = make_provider(TracingSettings(sample_ratio=0.0), "http://127.0.0.1:9/v1/traces")
    try:
        with provider.get_tracer("test").start_as_current_span("one") as span:
            assert not span.is_recording()
    finally:
        provider.shutdown()
