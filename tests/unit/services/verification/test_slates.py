"""A slate can be made again from its trace; one that was tampered with cannot."""

import asyncio

from services.verification.report import Report
from services.verification.slates import SlatesCheck
from stream import topics
from stream.pipeline import Rules
from stream.recommend import recommend
from stream.records import Outgoing, Record
from tests.builders import T0_MS, a_record
from tests.fakes import FakeBroker, a_pipeline


def published() -> tuple[list[Outgoing], list[Outgoing]]:
    """Traces and slates of users some of whom have bought what would be shown."""
    broker = FakeBroker()
    pipeline = a_pipeline(rules=Rules(slate_size=3, trace_share=1.0), publish=broker)
    for n in range(40):
        kind = "purchase" if n % 3 == 0 else "click"
        record = a_record(n, user_id=f"u{n % 9}", at_ms=T0_MS + n * 333, event_type=kind)
        asyncio.run(recommend(pipeline, [record]))
    return broker.on(topics.TRACE), broker.on(topics.RECOMMENDATIONS)


def check(traces: list[Outgoing], slates: list[Outgoing]) -> Report:
    report = Report()
    checking = SlatesCheck(report)
    for take, records in ((checking.trace, traces), (checking.slate, slates)):
        for offset, out in enumerate(records):
            take(Record(0, offset, 0, out.key, out.value))
    return report


def test_every_traced_slate_is_replayed_byte_for_byte() -> None:
    """With what the catalogue said then, and whatever was hidden then."""
    traces, slates = published()

    report = check(traces, slates)

    assert report.differences == []
    assert report.counts["slates compared"] == len(traces) == 40


def test_a_slate_that_a_crash_made_twice_is_compared_with_both() -> None:
    """The same id, as it is the same slate of the same state; made at another moment."""
    traces, slates = published()
    later = [
        [one._replace(value=(one.value or b"").replace(b'"generated_at":"2', b'"generated_at":"3'))]
        for one in (traces[7], slates[7])
    ]

    report = check(traces + later[0], slates + later[1])

    assert report.differences == []
    assert report.counts["slates compared"] == 41


def test_a_slate_of_other_bytes_is_found() -> None:
    """One score in its last digit, say."""
    traces, slates = published()
    value = slates[7].value or b""
    slates[7] = slates[7]._replace(value=value.replace(b'"rank":1,', b'"rank":1, '))

    assert check(traces, slates).different == 1


def test_a_trace_that_gives_other_items_is_found() -> None:
    """The slate's id is a hash of its items."""
    traces, slates = published()
    value = traces[7].value or b""
    traces[7] = traces[7]._replace(value=value.replace(b'",false]', b'",true]', 1))

    assert check(traces, slates).different == 2  # the id, and the bytes


def test_a_trace_that_is_none_is_found() -> None:
    """As one of another version of this software would be."""
    traces, slates = published()
    traces[7] = traces[7]._replace(value=b'{"schema":1}')

    assert check(traces, slates).different == 1
