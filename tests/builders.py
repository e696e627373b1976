"""Valid objects with one interesting field: ``an_event(item_id="shoes")``."""

import itertools
from datetime import UTC, datetime
from typing import Any

import orjson

from stream.events import Event, parse_event
from stream.items import Item
from stream.keys import partition_of
from stream.records import Record
from stream.state import Replacement
from stream.topics import EVENT_PARTITIONS

T0_MS = 1_470_052_800_000  # 2016-08-01T12:00:00Z
_numbers = itertools.count()


def event_json(*, at_ms: int = T0_MS, **fields: Any) -> dict[str, Any]:
    """An event as a producer would write it; a field set to ``...`` is left out."""
    event = {
        "event_id": f"e{next(_numbers)}",
        "event_type": "click",
        "event_timestamp": datetime.fromtimestamp(at_ms / 1000, UTC).isoformat(),
        "user_id": "ada",
        "item_id": "hat",
        **fields,
    }
    return {name: value for name, value in event.items() if value is not ...}


def an_event(**fields: Any) -> Event:
    """A parsed event."""
    raw = orjson.dumps(event_json(**fields))
    return parse_event(raw, kafka_timestamp_ms=T0_MS * 2, max_ahead_ms=0)


def a_record(offset: int, *, value: bytes | None = None, **fields: Any) -> Record:
    """An event's record on the partition where it belongs, or *value* in its place."""
    event = event_json(**fields)
    key = str(event.get("user_id", "ada")).encode()
    return Record(
        partition=partition_of(key, EVENT_PARTITIONS),
        offset=offset,
        timestamp_ms=T0_MS * 2,
        key=key,
        value=orjson.dumps(event) if value is None else value,
    )


def an_item(item_id: str = "hat", **fields: Any) -> Item:
    """A catalogue item."""
    return Item(item_id=item_id, title=f"The {item_id}", **fields)


def new(value: bytes) -> Replacement:
    """The first value of a key."""
    return Replacement(value, expected="", applied="0:7")
