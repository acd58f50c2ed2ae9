"""OpenTelemetry's spans of a request: one for the whole, one for the queue, one for each engine that was asked.

Names and attributes follow the semantic conventions for HTTP and for generative AI where those have one, and begin
with `gguf_server.` elsewhere. No text of a client or of a model is in any of them. This module is imported only where
traces are configured: its packages are an extra.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Final

from aiohttp import web
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.sdk.trace.sampling import ParentBased, TraceIdRatioBased
from opentelemetry.trace import Span, SpanKind, StatusCode, set_span_in_context
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from gguf_server.engine_client import TRACE_HEADERS, EngineError
from gguf_server.errors import GatewayError
from gguf_server.middleware import Handler
from gguf_server.outcomes import Outcome, outcome_of
from gguf_server.request_record import RECORD, RequestRecord
from gguf_server.settings.observing import TracingSettings
from gguf_server.trace import TRACE, Tell

_EXPORT_TIMEOUT_S: Final = 5
_CONTEXT_HEADERS: Final = ("traceparent", "tracestate")
_W3C: Final = TraceContextTextMapPropagator()
_OPERATIONS: Final = {"completions": "text_completion", "embeddings": "embeddings"}


def make_provider(settings: TracingSettings, endpoint: str) -> TracerProvider:
    """Sends spans in batches from a thread of its own; a collector that is away costs no request anything."""
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter

    provider = TracerProvider(
        sampler=ParentBased(TraceIdRatioBased(settings.sample_ratio)),
        resource=Resource.create({"service.name": settings.service_name}),
        shutdown_on_exit=False,
    )
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(endpoint, timeout=_EXPORT_TIMEOUT_S)))
    return provider


class Tracing:
    """Makes spans of every POST: what only looks, such as a health check each second, is not traced."""

    def __init__(self, provider: TracerProvider) -> None:
        self._provider = provider
        self._tracer = provider.get_tracer("gguf_server")

    async def close(self) -> None:
        """Send what is left, for some seconds at most."""
        await asyncio.to_thread(self._provider.shutdown)

    @web.middleware
    async def middleware(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Between the request's record and the rendering of its errors."""
        if request.method != "POST":
            return await handler(request)
        given = {name: request.headers[name] for name in _CONTEXT_HEADERS if name in request.headers}
        resource = request.match_info.route.resource
        route = resource.canonical if resource is not None else None
        record = request[RECORD]
        with self._tracer.start_as_current_span(
            f"POST {route}" if route else "POST",
            context=_W3C.extract(given),
            kind=SpanKind.SERVER,
            record_exception=False,
            set_status_on_exception=False,
        ) as span:
            request[TRACE] = RequestTrace(self, span, record, _operation(route or ""))
            try:
                response = await handler(request)
                record.status = response.status
                return response
            finally:
                _describe(span, record, route)

    def child(self, parent: Span, name: str, kind: SpanKind = SpanKind.INTERNAL) -> Span:
        return self._tracer.start_span(name, context=set_span_in_context(parent), kind=kind)


class RequestTrace:
    """The spans below the request's own; `gguf_server.trace.Trace` says what each is."""

    def __init__(self, tracing: Tracing, parent: Span, record: RequestRecord, operation: str) -> None:
        self._tracing = tracing
        self._parent = parent
        self._record = record
        self._operation = operation
        self._n_attempts = 0
        self._fault: str | None = None

    @contextmanager
    def queueing(self) -> Iterator[None]:
        with _ending(self._tracing.child(self._parent, "queue")):
            yield

    @contextmanager
    def attempt(self, engine: str, kind: str) -> Iterator[Tell]:
        model = self._record.model or ""
        span = self._tracing.child(self._parent, f"{self._operation} {model}", SpanKind.CLIENT)
        self._n_attempts += 1
        span.set_attributes(
            {
                "gen_ai.operation.name": self._operation,
                "gen_ai.provider.name": kind,
                "gen_ai.request.model": model,
                "gguf_server.engine": engine,
                "gguf_server.attempt": self._n_attempts,
            }
        )
        if self._fault is not None:
            span.set_attribute("gguf_server.failover.reason", self._fault)
        headers: dict[str, str] = {}
        _W3C.inject(headers, set_span_in_context(span))
        token = TRACE_HEADERS.set(headers)
        try:
            with _ending(span):
                yield lambda usage: span.set_attributes(_usage(usage))
        except EngineError as error:
            self._fault = error.fault
            raise
        finally:
            TRACE_HEADERS.reset(token)


@contextmanager
def _ending(span: Span) -> Iterator[None]:
    """What goes wrong meanwhile is told by its kind: messages may repeat what a client sent."""
    try:
        yield
    except (EngineError, GatewayError) as error:
        _fail(span, error.fault if isinstance(error, EngineError) else error.code)
        raise
    except BaseException as error:
        _fail(span, type(error).__name__)
        raise
    finally:
        span.end()


def _fail(span: Span, kind: str) -> None:
    span.set_attribute("error.type", kind)
    span.set_status(StatusCode.ERROR, kind)


def _describe(span: Span, record: RequestRecord, route: str | None) -> None:
    """What the record has come to know."""
    known = {
        "http.request.method": record.method,
        "http.route": route,
        "http.response.status_code": record.status,
        "gen_ai.request.model": record.model,
        "gen_ai.request.stream": record.is_stream,
        "gen_ai.response.time_to_first_chunk": record.ttft_s,
        "gen_ai.usage.input_tokens": record.n_prompt_tokens,
        "gen_ai.usage.output_tokens": record.n_completion_tokens,
        "gguf_server.request_id": record.request_id,
        "gguf_server.service": record.service,
        "gguf_server.engine": record.engine,
        "gguf_server.failovers": record.n_failovers,
        "gguf_server.dropped_messages": record.n_dropped,
        "gguf_server.queued_s": record.queued_s,
    }
    span.set_attributes({name: value for name, value in known.items() if value is not None})
    outcome = outcome_of(record)
    if outcome is Outcome.FAILED:
        _fail(span, record.error or str(record.status))
    elif outcome is not Outcome.ANSWERED:
        span.set_attribute("error.type", record.error or outcome)


def _usage(usage: Mapping[str, Any]) -> dict[str, int]:
    spelt = {"gen_ai.usage.input_tokens": "prompt_tokens", "gen_ai.usage.output_tokens": "completion_tokens"}
    return {name: usage[key] for name, key in spelt.items() if isinstance(usage.get(key), int)}


def _operation(route: str) -> str:
    """In the conventions' words."""
    last = "" if route.endswith("/chat/completions") else route.rpartition("/")[2]
    return _OPERATIONS.get(last, "chat")
