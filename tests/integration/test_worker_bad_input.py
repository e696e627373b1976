"""Whatever is written to the topic: nothing stops the stream, and nothing disappears."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import orjson
import pytest
from confluent_kafka import Message

from stream import topics
from stream.keys import partition_of
from stream.records import REASON, SOURCE_OFFSET, SOURCE_PARTITION, SOURCE_TOPIC
from tests.builders import T0_MS, event_json
from tests.integration.ledger import Ledger
from tests.integration.support import Processes, Servers, eventually, fresh_environment

pytestmark = pytest.mark.timeout(120)


@pytest.fixture(scope="module")
def ledger(stack: Servers, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ledger]:
    """One worker for all cases; each case has users of its own."""
    directory = tmp_path_factory.mktemp("bad-input")
    with fresh_environment(stack, directory / "data") as environment:
        processes = Processes(directory, environment)
        processes("worker").wait_ready()
        yield Ledger(environment, config={"message.max.bytes": 4_000_000})
        processes.end()


async def settled(ledger: Ledger, **expected: int) -> None:
    """Wait until the counters have grown by exactly *expected* since `counters` was called."""
    before = ledger.before  # type: ignore[attr-defined]

    def grown() -> bool:
        now = ledger.counters()
        return {k: now[k] - before[k] for k in now if now[k] != before[k]} == expected

    await eventually(grown, timeout_s=20)


@pytest.fixture(autouse=True)
def before(ledger: Ledger) -> None:
    ledger.before = ledger.counters()  # type: ignore[attr-defined]


def letter_of(ledger: Ledger, value: bytes | None, key: bytes | None) -> Message:
    (letter,) = [m for m in ledger.letters() if (m.value(), m.key()) == (value, key)]
    return letter


def changed(**fields: Any) -> bytes:
    return orjson.dumps(event_json(user_id="mallory", **fields))


REFUSED = {
    "not JSON": (b"not json", "json_invalid"),
    "an empty value": (b"", "json_invalid"),
    "not an object": (b"[1, 2]", "model_type"),
    "invalid UTF-8": (b'{"event_id": "\xff\xfe"}', "json_invalid"),
    "a wrong type": (changed(item_id=["hat"]), "item_id"),
    "a missing field": (changed(event_id=...), "event_id: missing"),
    "an unknown event type": (changed(event_type="teleport"), "event_type"),
    "a naive timestamp": (changed(event_timestamp="2016-08-01T12:00:00"), "timezone_aware"),
    "a numeric timestamp": (changed(event_timestamp=T0_MS), "event_timestamp"),
    "an empty id": (changed(event_id=""), "event_id"),
    "an id of 1,000 characters": (changed(event_id="x" * 1000), "event_id"),
    "a far-future timestamp": (
        changed(event_timestamp=(datetime.now(UTC) + timedelta(days=2)).isoformat()),
        "ahead of the record",
    ),
    "a tombstone": (None, "null"),
}


@pytest.mark.parametrize(("value", "reason"), REFUSED.values(), ids=REFUSED)
async def test_what_is_no_event_becomes_a_dead_letter(
    ledger: Ledger, value: bytes | None, reason: str
) -> None:
    """Key, value and headers byte for byte, with the reason and where it was."""
    key = b"\xff" + reason.encode() + (value or b"")[:20]
    headers = [("traceparent", b"00-1"), ("twice", b"\xff"), ("twice", None)]
    ledger.raw(key, value, headers=headers, partition=3)
    ledger.flush()

    await settled(ledger, dead_lettered=1)

    letter = letter_of(ledger, value, key)
    assert letter.headers()[:3] == headers
    added = dict(letter.headers()[3:])
    assert reason in added[REASON].decode()
    assert (added[SOURCE_TOPIC], added[SOURCE_PARTITION]) == (topics.EVENTS.encode(), b"3")
    assert int(added[SOURCE_OFFSET]) >= 0


@pytest.mark.parametrize("size", [1_048_576 - 200, 1_000_000])
async def test_the_letter_of_the_largest_record_is_delivered(ledger: Ledger, size: int) -> None:
    """A letter is larger than what it holds; its topic must take that too."""
    value = b"x" * (size - 100)
    ledger.raw(b"large", value)
    ledger.flush()

    await settled(ledger, dead_lettered=1)

    assert letter_of(ledger, value, b"large").value() == value


async def test_a_record_over_the_limit_is_refused_at_the_producer(ledger: Ledger) -> None:
    """The broker says so to whoever sends it; nothing reaches the stream."""
    refused = []
    ledger.raw(b"large", b"x" * 1_100_000, on_delivery=lambda error, _: refused.append(error))
    ledger.flush()

    assert "too large" in str(refused[0]).lower()
    await settled(ledger)


@pytest.mark.parametrize("key", [None, b"somebody else", b"\xff\xfe"])
async def test_a_wrong_key_is_mended(ledger: Ledger, key: bytes | None) -> None:
    """Null keys, keys that differ from user_id: the event reaches its user all the same."""
    event = event_json(user_id=f"user-{key!r}")
    ledger.raw(key, orjson.dumps(event))
    ledger.flush()

    await settled(ledger, rekeyed=1, folded=1)

    assert len(ledger.row(event["user_id"]).lists["interactions"]) == 1


async def test_another_partitioner_is_mended(ledger: Ledger) -> None:
    """librdkafka's default hashes keys differently from Java's."""
    event = event_json(user_id="elsewhere")
    right = partition_of(b"elsewhere", topics.EVENT_PARTITIONS)
    ledger.raw(b"elsewhere", orjson.dumps(event), partition=(right + 1) % topics.EVENT_PARTITIONS)
    ledger.flush()

    await settled(ledger, rekeyed=1, folded=1)

    assert ledger.row("elsewhere").partition == right


async def test_odd_but_valid_events_are_folded(ledger: Ledger) -> None:
    """Unknown items, integer ids, ids at the limit, unknown fields: all are events."""
    user = "é" * 256
    for number, fields in enumerate(
        (
            {"item_id": "never seen"},
            {"item_id": 10**17},
            {"loyalty": "gold"},
            {"event_id": "x" * 256},
        )
    ):
        ledger.send(user_id=user, at_ms=T0_MS + number, **fields)
    integer = event_json(user_id=42)
    ledger.raw(b"42", orjson.dumps(integer))
    ledger.flush()

    await settled(ledger, folded=5)

    assert len(ledger.row(user).lists["interactions"]) == 4
    assert len(ledger.row("42").lists["interactions"]) == 1


async def test_duplicates_are_counted_and_change_nothing(ledger: Ledger) -> None:
    """Producers retry; the first one stays."""
    for item_id in ("first", "second"):
        ledger.send(user_id="dup", event_id="same", item_id=item_id)
    ledger.flush()

    await settled(ledger, folded=1, duplicate=1)


async def test_disorder_and_shared_milliseconds_end_in_order(ledger: Ledger) -> None:
    """(event time, offset) is the order, whatever the order of arrival."""
    for ms in (5, 3, 3, 4, 3):
        ledger.send(user_id="disorder", at_ms=T0_MS + ms)
    ledger.flush()

    await settled(ledger, folded=5)

    entries = ledger.row("disorder").lists["interactions"]
    order = [(int(e["timestamp_ms"]) - T0_MS, int(e["offset"])) for e in entries]
    assert [ms for ms, _ in order] == [3, 3, 3, 4, 5]
    assert order == sorted(order)


async def test_older_than_a_full_history_is_late(ledger: Ledger) -> None:
    """It cannot be told from a duplicate of an evicted event, so it changes nothing."""
    for ms in range(130):
        ledger.send(user_id="late", at_ms=T0_MS + 1000 + ms)
    ledger.send(user_id="late", at_ms=T0_MS)
    ledger.flush()

    await settled(ledger, folded=130, late=1)
