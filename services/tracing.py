"""
OpenTelemetry: from the ``traceparent`` header of an event to that of its slate.

Who sends an event decides whether it is traced: a sampled ``traceparent`` asks for it, and without
one nothing is recorded. An event's trace goes on through its slate. A micro-batch belongs to many
traces, so it has one of its own, with a span for each stage and links to the events' spans.
"""

import time
from collections.abc import Iterator, Mapping, Sequence
from contextvars import ContextVar
from typing import Self

from opentelemetry.context import Context
from opentelemetry.sdk.resources import SERVICE_NAME, Resource
from opentelemetry.sdk.trace import SpanLimits, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter
from opentelemetry.trace import (
    Link,
    Span,
    SpanContext,
    SpanKind,
    get_current_span,
    set_span_in_context,
)
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from services.telemetry import WorkerMetrics
from stream import topics
from stream.consume import Handle
from stream.pipeline import Publish
from stream.records import TRACE_HEADERS, Headers, Outgoing, Record

EXPORT_TIMEOUT_S = 3.0
MOST_LINKS = 256
NANOSECOND = 1e-9

_propagator = TraceContextTextMapPropagator()


class Tracing:
    """
    Spans of a worker, handed to *exporter* in the background.

    Args:
        exporter: Where spans go.
    """

    def __init__(self, exporter: SpanExporter) -> None:
        self._provider = TracerProvider(
            resource=Resource.create({SERVICE_NAME: "headrace-worker"}),
            span_limits=SpanLimits(max_links=MOST_LINKS),
        )
        self._provider.add_span_processor(BatchSpanProcessor(exporter))
        self._tracer = self._provider.get_tracer("headrace")
        self._batch: ContextVar[Span | None] = ContextVar("batch", default=None)

    @classmethod
    def to(cls, endpoint: str) -> Self:
        """Spans to the OTLP collector at *endpoint*, ``http://host:4318``."""
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter

        url = f"{endpoint.rstrip('/')}/v1/traces"
        return cls(OTLPSpanExporter(endpoint=url, timeout=EXPORT_TIMEOUT_S))

    def metrics(self) -> WorkerMetrics:
        """A worker's metrics, whose stages are spans too."""
        return _TracedMetrics(self)

    def handling(self, handle: Handle) -> Handle:
        """*handle* in a span that links to every sampled event of the batch, if there is one."""

        async def traced(records: Sequence[Record]) -> Mapping[int, int]:
            links = list(_links(records))
            if not links:
                return await handle(records)
            counts = {"messaging.batch.message_count": len(records)}
            with self._tracer.start_as_current_span(
                "micro_batch",
                Context(),
                kind=SpanKind.CONSUMER,
                links=links,
                attributes=counts,
                record_exception=False,  # its message may name what an event held
            ) as span:
                token = self._batch.set(span)
                try:
                    return await handle(records)
                finally:
                    self._batch.reset(token)

        return traced

    def stage(self, name: str, seconds: float) -> None:
        """Record that a stage of the micro-batch at hand has just ended after *seconds*."""
        if (batch := self._batch.get()) is not None:
            ended_ns = time.time_ns()
            started_ns = ended_ns - round(seconds / NANOSECOND)
            span = self._tracer.start_span(
                name, set_span_in_context(batch, Context()), start_time=started_ns
            )
            span.end(ended_ns)

    def publishing(self, publish: Publish) -> Publish:
        """*publish*, with a span in its event's trace for each slate, which the slate names."""

        async def traced(records: Sequence[Outgoing]) -> None:
            batch = self._batch.get()
            if batch is None:
                return await publish(records)
            spans: list[Span] = []
            await publish([self._traced(record, batch, spans) for record in records])
            for span in spans:  # what was not acknowledged was no slate
                span.end()

        return traced

    def close(self) -> None:
        """Hand over what is left."""
        self._provider.shutdown()

    def _traced(self, record: Outgoing, batch: Span, spans: list[Span]) -> Outgoing:
        event = _event(record.headers)
        if record.topic != topics.RECOMMENDATIONS or not _is_sampled(event):
            return record
        span = self._tracer.start_span(
            "publish_slate",
            set_span_in_context(get_current_span(event), Context()),
            kind=SpanKind.PRODUCER,
            links=[Link(batch.get_span_context())],
        )
        spans.append(span)
        carrier: dict[str, str] = {}
        _propagator.inject(carrier, set_span_in_context(span, Context()))
        kept = tuple(header for header in record.headers if header[0] not in TRACE_HEADERS)
        injected = tuple((name, value.encode()) for name, value in carrier.items())
        return record._replace(headers=kept + injected)


class _TracedMetrics(WorkerMetrics):
    def __init__(self, tracing: Tracing) -> None:
        super().__init__()
        self._tracing = tracing

    def observe_stage(self, stage: str, seconds: float) -> None:
        super().observe_stage(stage, seconds)
        self._tracing.stage(stage, seconds)


def _links(records: Sequence[Record]) -> Iterator[Link]:
    for record in records:
        if record.headers and _is_sampled(event := _event(record.headers)):
            yield Link(_span_context(event))


def _event(headers: Headers) -> Context:
    """The trace that *headers* continue; an empty context if they name none, or nonsense."""
    carrier = {
        name: value.decode("ascii", errors="replace")
        for name, value in headers
        if name in TRACE_HEADERS and value is not None
    }
    return _propagator.extract(carrier, Context()) if carrier else Context()


def _span_context(context: Context) -> SpanContext:
    return get_current_span(context).get_span_context()


def _is_sampled(context: Context) -> bool:
    found = _span_context(context)
    return found.is_valid and found.trace_flags.sampled
