"""Kafka records as the pure pipeline sees them: what came in, and what goes out."""

from typing import NamedTuple

Headers = tuple[tuple[str, bytes | None], ...]

# Headers that we add. A producer's own headers are never touched.
BACKFILL = ("headrace-mode", b"backfill")  # history: build the state, publish no slate
REASON = "headrace-reason"
SOURCE_TOPIC = "headrace-source-topic"
SOURCE_PARTITION = "headrace-source-partition"
SOURCE_OFFSET = "headrace-source-offset"
FAILED_AT = "headrace-failed-at"
TRACE_HEADERS = frozenset({"traceparent", "tracestate"})  # W3C Trace Context, also on slates
MOST_TRACE_BYTES = 512  # what the standard has everybody pass on
EVENT_TIME_MS = "headrace-event-time-ms"  # on a slate: the broker's timestamp of its trigger


class Record(NamedTuple):
    """One record as it was read, untouched."""

    partition: int
    offset: int
    timestamp_ms: int  # the broker's, LogAppendTime
    key: bytes | None
    value: bytes | None
    headers: Headers = ()


class Outgoing(NamedTuple):
    """One record to publish. `topic` is a name of `stream.topics`, without the prefix."""

    topic: str
    key: bytes | None
    value: bytes | None
    headers: Headers = ()
    partition: int | None = None  # None: where the key belongs


def trace_headers(record: Record) -> Headers:
    """The trace that *record* belongs to, for what is made of it; none of an unlawful length."""
    return tuple(
        [
            (name, value)
            for name, value in record.headers
            if name in TRACE_HEADERS and value is not None and len(value) <= MOST_TRACE_BYTES
        ]
    )


def source_headers(record: Record, topic: str) -> Headers:
    """Where *record* was first read, for a copy of it that goes elsewhere."""
    return (
        (SOURCE_TOPIC, topic.encode()),
        (SOURCE_PARTITION, str(record.partition).encode()),
        (SOURCE_OFFSET, str(record.offset).encode()),
    )
