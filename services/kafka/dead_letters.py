"""Letters of a dead-letter topic: read to its end, sent back once, remembered in Kafka."""

from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import cast

import orjson
from confluent_kafka import OFFSET_INVALID, Consumer, KafkaException, TopicPartition

from services.errors import CommandFailed
from services.kafka.connection import KafkaConnection
from services.kafka.publishing import CONNECT_TIMEOUT_S, Publisher, require_topic
from stream.records import (
    FAILED_AT,
    REASON,
    SOURCE_OFFSET,
    SOURCE_PARTITION,
    SOURCE_TOPIC,
    Headers,
)

ADDED = frozenset({REASON, SOURCE_TOPIC, SOURCE_PARTITION, SOURCE_OFFSET, FAILED_AT})
MAX_METADATA_BYTES = 4000  # Kafka's own limit is 4096


@dataclass(frozen=True, slots=True)
class Letter:
    """One dead letter, its bytes untouched."""

    partition: int
    offset: int
    key: bytes | None
    value: bytes | None
    headers: Headers

    def _header(self, name: str) -> str:
        # The last one is ours: a producer may have sent a header of that name too.
        values = [value for header, value in self.headers if header == name]
        return (values[-1] or b"").decode(errors="backslashreplace") if values else ""

    @property
    def reason(self) -> str:
        """Why it is here."""
        return self._header(REASON)

    @property
    def failed_at(self) -> str:
        """When it came here, RFC 3339."""
        return self._header(FAILED_AT)

    @property
    def source_topic(self) -> str:
        """Where it came from."""
        return self._header(SOURCE_TOPIC)

    @property
    def source(self) -> str:
        """Topic, partition and offset where it came from."""
        place = self._header(SOURCE_PARTITION), self._header(SOURCE_OFFSET)
        return f"{self.source_topic}/{place[0]}:{place[1]}"

    @property
    def original_headers(self) -> Headers:
        """The producer's headers, in its order: all but the last one of each name that we add."""
        places = {name: place for place, (name, _) in enumerate(self.headers) if name in ADDED}
        added = set(places.values())
        return tuple(item for place, item in enumerate(self.headers) if place not in added)


@dataclass(slots=True)
class Sent:
    """What has been sent of one partition: everything below `position`, and `beyond` it some."""

    position: int
    beyond: set[int] = field(default_factory=set)

    def has(self, offset: int) -> bool:
        """Whether the letter at *offset* has been sent."""
        return offset < self.position or offset in self.beyond

    def add(self, offset: int) -> None:
        """The letter at *offset* has been sent."""
        self.beyond.add(offset)

    def pack(self, known: Collection[int]) -> tuple[int, str]:
        """
        As a committed offset and its metadata.

        Args:
            known: Offsets of letters that are there; what is not (transaction markers, expired
                letters) holds nothing back.
        """
        unsent = [offset for offset in known if not self.has(offset)]
        top = max((*self.beyond, self.position - 1)) + 1
        position = min((*unsent, top))
        left = sorted(offset - position for offset in self.beyond if offset >= position)
        return position, orjson.dumps(left).decode() if left else ""

    @classmethod
    def unpack(cls, position: int, metadata: str | None, low: int) -> "Sent":
        """From a committed offset; a group that has committed nothing begins at *low*."""
        if position == OFFSET_INVALID or position < low:
            return cls(low)
        return cls(position, {position + distance for distance in orjson.loads(metadata or "[]")})


@contextmanager
def _open(
    kafka: KafkaConnection, topic: str, group: str | None
) -> Iterator[tuple[Consumer, dict[int, tuple[int, int]]]]:
    consumer = Consumer(
        {
            **kafka.config(),
            "group.id": group or "headrace-tools",
            "enable.auto.commit": False,
            "auto.offset.reset": "earliest",
            "log_level": 3,
        }
    )
    try:
        partitions = require_topic(consumer, kafka, topic).partitions
        yield (
            consumer,
            {
                p: consumer.get_watermark_offsets(
                    TopicPartition(topic, p), timeout=CONNECT_TIMEOUT_S
                )
                for p in partitions
            },
        )
    except KafkaException as error:
        raise CommandFailed(f"Kafka at {kafka}: {error.args[0].str()}") from error
    finally:
        consumer.close()


def read_letters(kafka: KafkaConnection, topic: str) -> Iterator[Letter]:
    """All letters that *topic* holds now; oldest first in a partition."""
    with _open(kafka, topic, group=None) as (consumer, bounds):
        yield from _letters(consumer, topic, bounds)


def _letters(
    consumer: Consumer, topic: str, bounds: dict[int, tuple[int, int]]
) -> Iterator[Letter]:
    ends = {partition: high for partition, (low, high) in bounds.items() if low < high}
    consumer.assign([TopicPartition(topic, partition, bounds[partition][0]) for partition in ends])
    while ends:
        message = consumer.poll(CONNECT_TIMEOUT_S)
        if message is None:
            raise CommandFailed(f"{topic} stopped answering; is Kafka still up?")
        if (error := message.error()) is not None:
            raise CommandFailed(f"{topic}: {error.str()}")
        partition, offset = message.partition() or 0, message.offset() or 0
        if offset >= ends.get(partition, 0):
            continue  # it came while we were reading
        headers = cast(Headers, tuple(message.headers() or ()))
        yield Letter(partition, offset, message.key(), message.value(), headers)
        if offset + 1 == ends[partition]:
            del ends[partition]


def _sent(consumer: Consumer, topic: str, bounds: dict[int, tuple[int, int]]) -> dict[int, Sent]:
    asked = [TopicPartition(topic, partition) for partition in bounds]
    return {
        found.partition: Sent.unpack(found.offset, found.metadata, bounds[found.partition][0])
        for found in consumer.committed(asked, timeout=CONNECT_TIMEOUT_S)
    }


def replay_letters(
    kafka: KafkaConnection,
    topic: str,
    group: str,
    publisher: Publisher,
    destinations: Mapping[str, str],
    *,
    most: int | None = None,
    reason: str | None = None,
) -> int:
    """
    Publish letters to where they came from, once, and remember which.

    Args:
        destinations: Full name of each topic that a letter may name and go back to.

    Returns:
        How many.

    Raises:
        CommandFailed: If a letter names another topic: it goes nowhere.
    """
    with _open(kafka, topic, group) as (consumer, bounds):
        sent = _sent(consumer, topic, bounds)
        known: dict[int, list[int]] = {partition: [] for partition in bounds}
        count = 0
        for letter in _letters(consumer, topic, bounds):
            known[letter.partition].append(letter.offset)
            if sent[letter.partition].has(letter.offset) or count == most:
                continue
            if reason is not None and reason not in letter.reason:
                continue
            destination = destinations.get(letter.source_topic)
            if destination is None:
                raise CommandFailed(
                    f"letter {letter.partition}:{letter.offset} names no topic of ours to go to."
                )
            publisher.send(
                destination,
                letter.key,
                letter.value,
                headers=letter.original_headers,
                delivered=partial(_delivered, sent[letter.partition], letter.offset),
            )
            count += 1
        publisher.flush()
        _remember(consumer, topic, sent, known)
    return count


def _delivered(sent: Sent, letter_offset: int, partition: int, offset: int) -> None:
    sent.add(letter_offset)


def _remember(
    consumer: Consumer, topic: str, sent: dict[int, Sent], known: dict[int, list[int]]
) -> None:
    commits = []
    for partition, done in sent.items():
        position, metadata = done.pack(known[partition])
        if len(metadata) > MAX_METADATA_BYTES:
            raise CommandFailed(
                f"sent, but partition {partition} has too many gaps to remember: use --all next."
            )
        commits.append(TopicPartition(topic, partition, position, metadata))
    consumer.commit(offsets=commits, asynchronous=False)
