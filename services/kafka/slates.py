"""Reads slates from the results topic as they arrive, and matches them with the events behind."""

import time
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import orjson
from confluent_kafka import Consumer, KafkaException, Message, TopicPartition

from services.errors import CommandFailed
from services.kafka.connection import KafkaConnection
from services.kafka.publishing import CONNECT_TIMEOUT_S, require_topic
from services.logs.eventlog import LogEvent
from stream.records import EVENT_TIME_MS


def whole_topic(
    kafka: KafkaConnection, topic: str, *, from_beginning: bool
) -> tuple[Consumer, list[int]]:
    """
    A consumer without a group of all partitions of *topic*.

    Returns:
        The consumer, and the end of each partition at this moment: everything written from now on
        will be seen, whenever the first poll happens.

    Raises:
        CommandFailed: If Kafka or the topic is not there.
    """
    consumer = Consumer(
        {
            **kafka.config(),
            "group.id": "headrace-tools",  # never joined, nothing is committed
            "enable.auto.commit": False,
            "auto.offset.reset": "earliest",
            "log_level": 3,
        }
    )
    partitions = require_topic(consumer, kafka, topic).partitions
    try:
        bounds = [
            consumer.get_watermark_offsets(TopicPartition(topic, p), timeout=CONNECT_TIMEOUT_S)
            for p in partitions
        ]
    except KafkaException as error:
        raise CommandFailed(f"Kafka at {kafka} does not answer: {error.args[0].str()}") from error
    starts = [low if from_beginning else high for low, high in bounds]
    consumer.assign(
        [TopicPartition(topic, p, start) for p, start in zip(partitions, starts, strict=True)]
    )
    return consumer, [high for _, high in bounds]


@dataclass(frozen=True, slots=True)
class Slate:
    """One record of the results topic, as received."""

    user_id: str
    value: dict[str, Any] | None  # None: forgotten
    received_s: float  # wall clock
    event_time_ms: int | None  # Kafka's timestamp of the event behind it
    published_ms: int = 0  # the worker's clock

    @property
    def state(self) -> tuple[int, int]:
        """Partition and offset of the newest event folded in."""
        state = (self.value or {})["state"]
        return state["partition"], state["offset"]

    @property
    def item_ids(self) -> list[str]:
        """Best first."""
        return [item["item_id"] for item in (self.value or {})["items"]]


def read_slate(message: Message) -> Slate:
    """The slate in a record."""
    headers = dict(message.headers() or ())
    event_time = headers.get(EVENT_TIME_MS)
    raw = message.value()
    return Slate(
        user_id=(message.key() or b"").decode(errors="replace"),
        value=orjson.loads(raw) if raw is not None else None,
        received_s=time.time(),
        event_time_ms=int(event_time) if event_time is not None else None,
        published_ms=message.timestamp()[1],
    )


def poll_slates(consumer: Consumer, timeout_s: float, most: int = 500) -> Iterator[Slate]:
    """Slates that arrive within *timeout_s*, as soon as there is one."""
    first = consumer.poll(timeout_s)
    messages = [] if first is None else [first, *consumer.consume(most, timeout=0)]
    for message in messages:
        if message.error() is None:
            yield read_slate(message)


class Newest:
    """Drops slates that are older than one already seen, as every consumer should."""

    def __init__(self) -> None:
        self._seen: dict[str, tuple[int, int]] = {}

    def is_news(self, slate: Slate) -> bool:
        """Whether no newer slate of this user has been seen; a deletion always is news."""
        if slate.value is None:
            self._seen.pop(slate.user_id, None)
            return True
        partition, offset = slate.state
        seen = self._seen.get(slate.user_id)
        if seen is not None and seen[0] == partition and offset < seen[1]:
            return False
        self._seen[slate.user_id] = partition, offset
        return True


@dataclass(slots=True)
class Sent:
    """An event on its way to becoming a slate."""

    event: LogEvent
    sent_s: float
    partition: int | None = None  # known once delivered
    offset: int | None = None


@dataclass(slots=True)
class Answer:
    """A slate and the events it answers, oldest first."""

    slate: Slate
    events: Sequence[Sent]


@dataclass(slots=True)
class Unanswered:
    """
    Events that have been sent and whose slate is awaited.

    A slate answers every event of its user at or below its ``state.offset``: the worker makes one
    slate of a user's events that arrive together.
    """

    _sent: dict[str, deque[Sent]] = field(default_factory=dict)
    _early: dict[str, Slate] = field(default_factory=dict)  # slates that overtook their report

    def __len__(self) -> int:
        return len(self._sent)

    def __contains__(self, user_id: str) -> bool:
        return user_id in self._sent

    def add(self, sent: Sent) -> None:
        """Await the slate of *sent*."""
        self._sent.setdefault(sent.event.event.user_id, deque()).append(sent)

    def delivered(self, sent: Sent, partition: int, offset: int) -> Answer | None:
        """Kafka has *sent* at this place. Returns the answer if it was faster than this report."""
        sent.partition, sent.offset = partition, offset
        early = self._early.get(sent.event.event.user_id)
        return self.answer(early) if early is not None else None

    def answer(self, slate: Slate) -> Answer | None:
        """The events that *slate* answers, which are no longer awaited; None if there are none."""
        waiting = self._sent.get(slate.user_id)
        if waiting is None or slate.value is None:
            return None
        partition, offset = slate.state
        answered = []
        while waiting and waiting[0].partition == partition and (waiting[0].offset or 0) <= offset:
            answered.append(waiting.popleft())
        if waiting and waiting[0].offset is None:
            self._early[slate.user_id] = slate
        elif not waiting:
            self.forget(slate.user_id)
        return Answer(slate, answered) if answered else None

    def overdue(self, before_s: float) -> list[str]:
        """Users whose oldest awaited event was sent before *before_s*."""
        return [user for user, sent in self._sent.items() if sent[0].sent_s < before_s]

    def forget(self, user_id: str) -> int:
        """Await nothing more for this user. Returns how many events that gives up."""
        self._early.pop(user_id, None)
        return len(self._sent.pop(user_id, ()))
