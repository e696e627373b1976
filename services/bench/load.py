"""Events sent by a schedule or as fast as they are answered, and how long each one's slate took."""

import os
import threading
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Self

import msgspec
import numpy as np
import orjson
from confluent_kafka import Consumer, Message, Producer
from numpy.typing import NDArray

from services.kafka.connection import KafkaConnection
from services.kafka.slates import whole_topic
from services.training.log import EventLog
from stream import topics
from stream.event_types import EventType
from stream.topics import with_prefix

TICK_S = 0.001  # librdkafka waits in whole milliseconds: less would be no wait at all
TICKS = 5  # of a storefront that gathers, in the time that it gathers
MOST_AT_ONCE = 500
PATIENCE_S = 30.0  # for the slates of the last events
# What shoppers do, in about the proportions of a storefront's log.
MIX = {
    EventType.VIEW: 0.40,
    EventType.CLICK: 0.40,
    EventType.ADD_TO_CART: 0.12,
    EventType.PURCHASE: 0.05,
    EventType.REMOVE_FROM_CART: 0.03,
}


@dataclass(frozen=True)
class Traffic:
    """
    Who does what to which item, in order; after the last action the first comes again.

    Attributes:
        users, items, types: ``(N,)`` places in `user_ids` and `item_ids`, and codes.
    """

    name: str
    user_ids: Sequence[str]
    item_ids: Sequence[str]
    users: NDArray[np.int64]
    items: NDArray[np.int64]
    types: NDArray[np.int64]

    @classmethod
    def drawn(
        cls, name: str, item_ids: Sequence[str], *, users: int, exponent: float, length: int
    ) -> Self:
        """
        *length* actions of so many users.

        Args:
            exponent: Of Zipf's law over users: 0 is uniform. Items follow it with 1, as in any
                shop.
        """
        rng = np.random.default_rng(1)
        return cls(
            name,
            [f"{name}-{number}" for number in range(users)],
            item_ids,
            rng.choice(users, length, p=_zipf(users, exponent)),
            rng.choice(len(item_ids), length, p=_zipf(len(item_ids), 1.0)),
            rng.choice(list(MIX), length, p=list(MIX.values())),
        )

    @classmethod
    def of_log(cls, name: str, log: EventLog) -> Self:
        """The actions of a log, in its order, without its pauses."""
        known, users = np.unique(log.users, return_inverse=True)
        return cls(
            name,
            [f"{name}-{number}" for number in known.tolist()],
            log.item_ids,
            users,
            log.items,
            log.types,
        )


def _zipf(size: int, exponent: float) -> NDArray[np.float64]:
    weights = np.arange(1, size + 1) ** -exponent
    shares: NDArray[np.float64] = weights / weights.sum()
    return shares


@dataclass(slots=True)
class Answers:
    """What came of the events of one stretch of time."""

    seconds: float = 0.0
    events: int = 0  # answered
    slates: int = 0
    unanswered: int = 0
    latencies_s: list[float] = field(default_factory=list)  # from when each event was due

    def percentile_ms(self, percent: float) -> float:
        """A percentile of the latencies; NaN if there are none."""
        return float(np.percentile(self.latencies_s or [np.nan], percent)) * 1000


class _Trigger(msgspec.Struct):
    event_id: str | None = None


class _Answer(msgspec.Struct):
    """What is read of a slate: to parse all of it would be a tenth of what this process takes."""

    trigger: _Trigger = msgspec.field(default_factory=_Trigger)


_read = msgspec.json.Decoder(_Answer).decode


class Stopped(Exception):
    """Nobody wants the figure any more."""


class Load:
    """
    One storefront that sends *traffic*, and one that receives its slates.

    A slate answers its trigger, the newest event folded in, and every event of that user that
    was sent before: they are on one partition, in order. So nothing waits for Kafka to say which
    offset an event was given.

    Args:
        prefix: Of the topics.
        linger_ms: For so long the storefront gathers events before it sends them. 0 is for slates
            that are wanted soon, more for those that are wanted in numbers.
        stop: When it is set, whatever goes on raises `Stopped`.

    Attributes:
        sent: Events, so far.
    """

    def __init__(
        self,
        kafka: KafkaConnection,
        prefix: str,
        traffic: Traffic,
        *,
        linger_ms: int,
        stop: threading.Event,
    ) -> None:
        self._topic = with_prefix(prefix, topics.EVENTS)
        results = with_prefix(prefix, topics.RECOMMENDATIONS)
        self._consumer: Consumer = whole_topic(kafka, results, from_beginning=False)[0]
        self._producer = Producer(
            {
                **kafka.config(),
                "partitioner": "murmur2_random",
                "acks": "all",
                "linger.ms": linger_ms,
                "compression.type": "lz4",
                "log_level": 0,
            }
        )
        self._stop = stop
        self._tick_s = max(TICK_S, linger_ms / 1000 / TICKS)
        self._traffic = traffic
        # No event of another run may have the same id.
        self._run = f"{os.getpid():x}-{time.time_ns():x}"
        self.sent = 0
        self._waiting: dict[bytes, deque[tuple[int, float]]] = {}  # by user: number, when due
        self._unanswered = 0
        self._answers = Answers()

    def by_schedule(self, rate: float, seconds: float, *, to_the_last: bool = True) -> Answers:
        """
        Send *rate* events a second whatever becomes of them.

        An event's time begins when it is due, so that waiting to be sent counts as well.

        Args:
            to_the_last: Wait for the slates of all of them. If not, what is still unanswered
                counts among the answers of whatever is asked next.
        """
        answers = self._begin()
        total, began_s = round(rate * seconds), time.perf_counter()
        sent = 0
        while sent < total:
            due = min(total, int((time.perf_counter() - began_s) * rate) + 1)
            for number in range(sent, due):
                self._send(began_s + number / rate)
            sent = due
            next_s = began_s + sent / rate - time.perf_counter()
            self._receive(max(self._tick_s, next_s))
        answers.seconds = time.perf_counter() - began_s
        if to_the_last:
            self._drain()
        return answers

    def saturating(self, window: int, seconds: float) -> Answers:
        """Keep *window* events unanswered at any moment; what was answered meanwhile."""
        answers = self._begin()
        began_s = time.perf_counter()
        while (now_s := time.perf_counter()) < began_s + seconds:
            for _ in range(min(window - self._unanswered, MOST_AT_ONCE)):
                self._send(now_s)
            self._receive(TICK_S)
        answers.seconds = now_s - began_s
        return answers

    def settle(self) -> int:
        """Wait for what is unanswered; how many events got no slate."""
        self._begin()
        self._drain()
        return self._answers.unanswered

    def close(self) -> None:
        """Give the connections back."""
        self._producer.flush(PATIENCE_S)
        self._consumer.close()

    def _begin(self) -> Answers:
        self._answers = Answers()
        return self._answers

    def _send(self, due_s: float) -> None:
        traffic, place = self._traffic, self.sent % len(self._traffic.users)
        user = traffic.user_ids[traffic.users[place]]
        key = user.encode()
        event = {
            "event_id": f"{self._run}-{self.sent}",
            "event_type": EventType(traffic.types[place]).name.lower(),
            "event_timestamp": datetime.now(UTC).isoformat(timespec="milliseconds"),
            "user_id": user,
            "session_id": "s1",
            "item_id": traffic.item_ids[traffic.items[place]],
            "price": 12.5,
            "currency": "USD",
            "context": {"page": "home", "device": "mobile", "country": "US"},
        }
        self._producer.produce(self._topic, key=key, value=orjson.dumps(event))
        self._waiting.setdefault(key, deque()).append((self.sent, due_s))
        self.sent += 1
        self._unanswered += 1

    def _receive(self, timeout_s: float) -> None:
        if self._stop.is_set():
            raise Stopped
        self._producer.poll(0)
        first = self._consumer.poll(timeout_s)
        if first is None:
            return
        now_s = time.perf_counter()
        for message in (first, *self._consumer.consume(MOST_AT_ONCE, timeout=0)):
            if message.error() is None:
                self._answered(message, now_s)

    def _answered(self, slate: Message, now_s: float) -> None:
        answered = _read(slate.value() or b"{}").trigger
        run, _, number = (answered.event_id or "").rpartition("-")
        waiting = self._waiting.get(slate.key() or b"")
        if run != self._run or waiting is None:
            return
        self._answers.slates += 1
        while waiting and waiting[0][0] <= int(number):
            self._answers.latencies_s.append(now_s - waiting.popleft()[1])
            self._answers.events += 1
            self._unanswered -= 1

    def _drain(self) -> None:
        deadline_s = time.perf_counter() + PATIENCE_S
        while self._unanswered and time.perf_counter() < deadline_s:
            self._receive(0.01)
        self._answers.unanswered, self._unanswered = self._unanswered, 0
        self._waiting.clear()
