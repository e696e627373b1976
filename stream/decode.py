"""Stage 1, decode: tell events from what can never be one, and from what lies on a wrong place."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from stream import topics
from stream.events import Event, InvalidEvent, parse_event
from stream.keys import partition_of
from stream.records import BACKFILL, FAILED_AT, REASON, Outgoing, Record, source_headers


@dataclass(frozen=True, slots=True)
class Accepted:
    """An event on the partition where it belongs."""

    record: Record
    event: Event

    @property
    def is_backfill(self) -> bool:
        """History: it builds the state, and no slate is published for it."""
        return BACKFILL in self.record.headers


@dataclass(frozen=True, slots=True)
class Misplaced:
    """An event with another key, no key, or on another partition: it is published again."""

    record: Record
    event: Event

    def rekeyed(self, partitions: int) -> Outgoing:
        """The same value and headers on the partition where its user's other events are."""
        key = self.event.user_id.encode()
        return Outgoing(
            topic=topics.EVENTS,
            key=key,
            value=self.record.value,
            headers=(*self.record.headers, *source_headers(self.record, topics.EVENTS)),
            partition=partition_of(key, partitions),
        )


@dataclass(frozen=True, slots=True)
class Refused:
    """What can never be processed."""

    record: Record
    reason: str

    def dead_letter(self, failed_at: datetime) -> Outgoing:
        """Key, value and headers byte for byte, with the reason and where it was."""
        return Outgoing(
            topic=topics.EVENTS_DLQ,
            key=self.record.key,
            value=self.record.value,
            headers=(
                *self.record.headers,
                (REASON, self.reason.encode()[:_MAX_REASON_BYTES]),
                *source_headers(self.record, topics.EVENTS),
                (FAILED_AT, failed_at.isoformat().encode()),
            ),
        )


_MAX_REASON_BYTES = 2048

Decoded = Accepted | Misplaced | Refused


def decode(records: Sequence[Record], *, partitions: int, max_ahead_ms: int) -> list[Decoded]:
    """
    Decode each record, in order.

    Args:
        records: As they were read.
        partitions: How many `events.v1` has.
        max_ahead_ms: How far an event may lie ahead of its record's own timestamp.
    """
    return [_decode(record, partitions, max_ahead_ms) for record in records]


def _decode(record: Record, partitions: int, max_ahead_ms: int) -> Decoded:
    try:
        event = parse_event(
            record.value, kafka_timestamp_ms=record.timestamp_ms, max_ahead_ms=max_ahead_ms
        )
    except InvalidEvent as error:
        return Refused(record, str(error))
    key = event.user_id.encode()
    if record.key == key and record.partition == partition_of(key, partitions):
        return Accepted(record, event)
    return Misplaced(record, event)
