"""From an event's traceparent to its slate's."""

from collections.abc import Sequence
from typing import Any

import pytest
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from services.tracing import Tracing
from stream import topics
from stream.recommend import recommend
from stream.records import Headers, Record
from tests.builders import a_record
from tests.fakes import FakeBroker, FakeObserver, a_pipeline

TRACE, SPAN = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
SAMPLED = f"00-{TRACE}-{SPAN}-01".encode()
NOT_SAMPLED = f"00-{TRACE}-{SPAN}-00".encode()


class Observer(FakeObserver):
    """Tells the tracing of stages, as the worker's metrics do."""

    def __init__(self, tracing: Tracing) -> None:
        super().__init__()
        self._tracing = tracing

    def observe_stage(self, stage: str, seconds: float) -> None:
        self._tracing.stage(stage, seconds)


def traced(offset: int, traceparent: bytes, **fields: Any) -> Record:
    return a_record(offset, **fields)._replace(headers=(("traceparent", traceparent),))


async def run(records: Sequence[Record]) -> tuple[dict[str, Headers], dict[str, ReadableSpan]]:
    """Headers of each user's slate, and what was exported by name."""
    exporter = InMemorySpanExporter()
    tracing = Tracing(exporter)
    broker = FakeBroker()
    pipeline = a_pipeline(publish=tracing.publishing(broker), observe=Observer(tracing))
    await tracing.handling(lambda batch: recommend(pipeline, batch))(records)
    tracing.close()
    slates = {
        (record.key or b"").decode(): record.headers
        for record in broker.published
        if record.topic == topics.RECOMMENDATIONS
    }
    return slates, {span.name: span for span in exporter.get_finished_spans()}


async def test_a_slate_goes_on_with_the_trace_of_its_event() -> None:
    """Whoever clicked can be followed to what was shown, through somebody else's systems too."""
    slates, spans = await run([traced(0, SAMPLED, user_id="ada")])

    version, trace, span, flags = dict(slates["ada"])["traceparent"].decode().split("-")  # type: ignore[union-attr]
    slate = spans["publish_slate"]
    assert (version, trace, flags) == ("00", TRACE, "01")
    assert span == f"{slate.context.span_id:016x}" != SPAN
    assert slate.parent is not None
    assert f"{slate.parent.span_id:016x}" == SPAN
    assert [link.context for link in slate.links] == [spans["micro_batch"].context]


async def test_a_micro_batch_has_its_stages_and_links_to_its_events() -> None:
    """It belongs to many traces at once; a span has one parent."""
    _, spans = await run([traced(0, SAMPLED, user_id="ada"), a_record(1, user_id="bob")])

    batch = spans["micro_batch"]
    stages = {name for name, span in spans.items() if span.parent and span.parent == batch.context}
    assert [f"{link.context.trace_id:032x}" for link in batch.links] == [TRACE]
    assert {"decode", "read", "fold", "rank", "write", "slate", "publish", "mark"} <= stages
    assert stages.isdisjoint({"micro_batch", "publish_slate"})


@pytest.mark.parametrize("header", [NOT_SAMPLED, b"00-zz-1-01", b"\xff\xfe"])
async def test_what_nobody_sampled_is_passed_on_and_not_recorded(header: bytes) -> None:
    """The sender decides; a header that makes no sense is nobody's error."""
    slates, spans = await run([traced(0, header, user_id="ada")])

    assert dict(slates["ada"])["traceparent"] == header
    assert spans == {}


async def test_an_event_without_a_trace_gives_a_slate_without() -> None:
    """Nearly all of them: they must cost nothing."""
    slates, spans = await run([a_record(0, user_id="ada")])

    assert "traceparent" not in dict(slates["ada"])
    assert spans == {}


async def test_a_header_longer_than_the_standard_allows_stays_behind() -> None:
    """A producer's megabyte does not come out again on every slate."""
    slates, _ = await run([traced(0, b"0" * 600, user_id="ada")])

    assert "traceparent" not in dict(slates["ada"])
