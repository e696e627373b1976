"""Sends known events at a steady rate, some of them bad on purpose, and writes the ledger."""

import random
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import orjson
from confluent_kafka import KafkaError, Message, Producer

from stream import topics
from tests.chaos.background import Background
from tests.chaos.ledger import NUMBER, Entry, Kind, Ledger

TICK_S = 0.02
DELIVERY_TIMEOUT_MS = 300_000  # a broker that is killed comes back; what waits must not expire
EVENT_TYPES = {
    "view": 45,
    "click": 25,
    "impression": 10,
    "add_to_cart": 8,
    "purchase": 6,
    "search": 2,
    "remove_from_cart": 2,
    "refund": 1,
    "dislike": 1,
}
WHALE = "whale"
DEEP = 100_000
LARGE_BYTES = 1_000_000


@dataclass(frozen=True)
class Traffic:
    """
    What is sent.

    A share of *hot_share* comes from *hot_users* users, whose lists overflow within minutes: only
    then can an event be too late to be told from a duplicate.
    """

    rate: float = 500.0
    users: int = 5_000
    items: int = 200
    hot_users: int = 20
    hot_share: float = 0.15
    duplicates: float = 0.01
    late: float = 0.02
    garbage: float = 0.005
    misplaced: float = 0.01
    whale: float = 0.0  # share of one single user


Delivered = Callable[[Entry], None]


class Generator(Background):
    """
    One thread, two producers: Kafka's own partitioner, and librdkafka's default.

    `traffic` may be replaced while it runs.
    """

    def __init__(
        self, servers: str, prefix: str, traffic: Traffic, seed: int, on_delivered: Delivered
    ) -> None:
        super().__init__("generator")
        self.ledger = Ledger()
        self.traffic = traffic
        self._random = random.Random(seed)
        self._topic = topics.with_prefix(prefix, topics.EVENTS)
        self._on_delivered = on_delivered
        self._recent: deque[tuple[Entry, bytes]] = deque(maxlen=2_000)
        self._producers = {
            partitioner: _producer(servers, partitioner)
            for partitioner in ("murmur2_random", "consistent_random")
        }

    def stop(self) -> None:
        """Send nothing more, and wait until everything is delivered or refused."""
        self._stop.set()
        self._thread.join()
        for producer in self._producers.values():
            producer.flush(60)

    def poison(self, name: str) -> None:
        """Send one of `POISON`."""
        self._garbage(POISON[name])

    def _run(self) -> None:
        last_s, owed = time.monotonic(), 0.0
        while not self._stop.is_set():
            now_s = time.monotonic()
            owed += (now_s - last_s) * self.traffic.rate
            last_s = now_s
            for _ in range(int(owed)):
                self._send_one()
            owed %= 1.0
            for producer in self._producers.values():
                producer.poll(0)
            self._stop.wait(TICK_S)

    def _send_one(self) -> None:
        traffic = self.traffic
        shares = {
            Kind.GARBAGE: traffic.garbage,
            Kind.DUPLICATE: traffic.duplicates,
            Kind.MISPLACED: traffic.misplaced,
            Kind.LATE: traffic.late,
        }
        shares[Kind.PLAIN] = 1.0 - sum(shares.values())
        match self._random.choices(list(shares), list(shares.values()))[0]:
            case Kind.GARBAGE:
                self._garbage(self._random.choice(GARBAGE))
            case Kind.DUPLICATE:
                self._duplicate()
            case Kind.MISPLACED:
                self._misplaced()
            case kind:
                self._event(kind)

    def _event(self, kind: Kind) -> None:
        entry, value = self._new_event(kind)
        self._recent.append((entry, value))
        self._produce(entry, entry.user_id.encode(), value)

    def _duplicate(self) -> None:
        if self._recent:
            first, value = self._random.choice(self._recent)
            again = Entry(
                Kind.DUPLICATE, first.user_id, first.event_id, first.event_type, first.at_ms
            )
            self._produce(again, again.user_id.encode(), value)

    def _misplaced(self) -> None:
        # Of a user whose home is known: whether the other partitioner hit it by chance is then too.
        entry, value = self._new_event(Kind.MISPLACED)
        if entry.user_id in self.ledger.homes:
            self._produce(entry, entry.user_id.encode(), value, "consistent_random")

    def _garbage(self, value: bytes | None) -> None:
        self._produce(Entry(Kind.GARBAGE, ""), b"g%d" % self._random.randrange(1_000), value)

    def _new_event(self, kind: Kind) -> tuple[Entry, bytes]:
        draw = self._random
        at_ms = time.time_ns() // 1_000_000
        if kind is Kind.LATE:
            at_ms -= draw.randrange(1_000, 3_600_000)
        (event_type,) = draw.choices(list(EVENT_TYPES), list(EVENT_TYPES.values()))
        event = {
            "event_id": f"e{len(self.ledger.entries)}",
            "event_type": event_type,
            "event_timestamp": datetime.fromtimestamp(at_ms / 1000, UTC).isoformat(
                timespec="milliseconds"
            ),
            "user_id": self._user(),
            **_object_of(event_type, draw, self.traffic.items),
        }
        entry = Entry(kind, event["user_id"], event["event_id"], event_type, at_ms)
        return entry, orjson.dumps(event)

    def _user(self) -> str:
        draw, traffic = self._random, self.traffic
        if draw.random() < traffic.whale:
            return WHALE
        if draw.random() < traffic.hot_share:
            return f"hot{draw.randrange(traffic.hot_users)}"
        return f"u{draw.randrange(traffic.users)}"

    def _produce(
        self,
        entry: Entry,
        key: bytes,
        value: bytes | None,
        partitioner: str = "murmur2_random",
    ) -> None:
        entry.sent_s = time.monotonic()
        number = self.ledger.write(entry)

        def report(error: KafkaError | None, message: Message) -> None:
            if error is not None:
                self.ledger.was_refused(number, error.str())
            else:
                partition, offset = message.partition() or 0, message.offset() or 0
                self._on_delivered(self.ledger.delivered(number, partition, offset))

        producer = self._producers[partitioner]
        headers: list[tuple[str, str | bytes | None]] = [(NUMBER, str(number).encode())]
        while True:
            try:
                producer.produce(
                    self._topic, key=key, value=value, headers=headers, on_delivery=report
                )
                return
            except BufferError:
                producer.poll(0.1)


def _producer(servers: str, partitioner: str) -> Producer:
    # Idempotent: a report that was lost with a broker does not make the record another one.
    return Producer(
        {
            "bootstrap.servers": servers,
            "partitioner": partitioner,
            "enable.idempotence": True,
            "linger.ms": 5,
            "message.timeout.ms": DELIVERY_TIMEOUT_MS,
            "message.max.bytes": 2_000_000,
            "queue.buffering.max.messages": 1_000_000,
            "reconnect.backoff.max.ms": 500,
            "log_level": 0,
        }
    )


def _object_of(event_type: str, draw: random.Random, items: int) -> Mapping[str, Any]:
    if event_type == "search":
        return {"query": f"tote {draw.randrange(50)}"}
    item = {"item_id": f"i{draw.randrange(items)}", "session_id": "s1"}
    if event_type in ("purchase", "refund"):
        return {**item, "price": 12.5, "currency": "USD", "order_id": f"o{draw.randrange(9)}"}
    return item


def _event_with(**fields: Any) -> bytes:
    valid = {
        "event_id": "garbage",
        "event_type": "click",
        "event_timestamp": "2026-01-01T00:00:00Z",
        "user_id": "mallory",
        "item_id": "i1",
    }
    return orjson.dumps({**valid, **fields})


GARBAGE = (
    b"not json",
    b"",
    b"[1, 2]",
    _event_with(item_id=["i1"]),
    _event_with(event_type="teleport"),
    _event_with(event_timestamp="2026-01-01T00:00:00"),
    _event_with(event_timestamp=1_767_225_600_000),
    _event_with(event_timestamp="2126-01-01T00:00:00Z"),
)
POISON: Mapping[str, bytes | None] = {
    "deep JSON": b'{"event_id": ' + b"[" * DEEP + b"]" * DEEP + b"}",
    "a huge id": _event_with(user_id="u" * LARGE_BYTES),
    "invalid UTF-8": b'{"event_id": "\xff\xfe", "user_id": "\xc3\x28"}',
    "a null": None,
    "1 MB of nothing": b"\x00" * LARGE_BYTES,
    "a number without end": b'{"event_id": 1' + b"0" * DEEP + b"}",
}
