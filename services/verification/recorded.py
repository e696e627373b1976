"""A topic as it was recorded: the archive's files, and from where they end, the log itself."""

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import pyarrow.parquet as pq
from confluent_kafka import Consumer, KafkaError, KafkaException, Message, TopicPartition

from services.archive.reader import Segment, partition_dir, segments
from services.errors import CommandFailed
from services.kafka.connection import KafkaConnection
from services.kafka.publishing import require_topic
from stream.records import Record

CHUNK = 4_096  # records
SILENT_FOR_S = 30.0
_COLUMNS = ["offset", "kafka_timestamp_ms", "key", "value", "headers"]


@dataclass(frozen=True, slots=True)
class Stretch:
    """Offsets of a partition from *first* to before *end*, and the file that has them."""

    first: int
    end: int
    file: Path | None = None  # None: the log has them, or nobody


class RecordedTopic:
    """
    Reads partitions of *topic* from any offset, again as often as asked.

    Args:
        kafka: Where Kafka is.
        topic: Its full name.
        archive: The directory of the topic's files, which may be missing.

    Raises:
        CommandFailed: If Kafka or the topic is not there.
    """

    def __init__(self, kafka: KafkaConnection, topic: str, archive: Path | None = None) -> None:
        self.name = topic
        self._archive = archive
        self._config = {
            **kafka.config(),
            "group.id": f"headrace-verify-{topic}",  # required by the library; never joined
            "enable.auto.commit": False,
            "enable.partition.eof": True,
            "auto.offset.reset": "error",
            "isolation.level": "read_uncommitted",  # as the worker reads
            "fetch.wait.max.ms": 50,  # at the end of a partition there is nothing to wait for
            "log_level": 0,  # what matters is raised
        }
        self._consumer = Consumer(self._config)
        self.partitions = require_topic(self._consumer, kafka, topic).partitions

    def end(self, partition: int) -> int:
        """The offset of the record that comes next."""
        return self._watermarks(partition)[1]

    def missing(self, partition: int, end: int) -> list[Stretch]:
        """What neither the archive nor the log has, of the records before *end*."""
        begins, _ = self._watermarks(partition)
        gaps = [stretch for stretch in self._stretches(partition, 0, end) if stretch.file is None]
        cut = [Stretch(gap.first, min(gap.end, begins)) for gap in gaps]
        return [gap for gap in cut if gap.first < gap.end]

    def records(self, partition: int, first: int, end: int) -> Iterator[list[Record]]:
        """
        The records from *first* to before *end*, in offset order, some thousand at a time.

        Raises:
            CommandFailed: If Kafka falls silent, or has deleted them meanwhile.
        """
        for stretch in self._stretches(partition, first, end):
            if stretch.file is not None:
                yield from _archived(stretch.file, partition, stretch.first, stretch.end)
            else:
                yield from self._logged(partition, stretch)

    def close(self) -> None:
        """Close the connection."""
        self._consumer.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _stretches(self, partition: int, first: int, end: int) -> Iterator[Stretch]:
        directory = partition_dir(self._archive, partition) if self._archive else None
        return stretches(segments(directory) if directory else [], first, end)

    def _logged(self, partition: int, stretch: Stretch) -> Iterator[list[Record]]:
        begins, _ = self._watermarks(partition)
        if stretch.end <= begins:
            return
        # One of its own: several partitions may be read by turns.
        consumer = Consumer(self._config)
        try:
            place = TopicPartition(self.name, partition, max(stretch.first, begins))
            consumer.assign([place])
            yield from _consumed(consumer, place, stretch.end)
        finally:
            consumer.close()

    def _watermarks(self, partition: int) -> tuple[int, int]:
        place = TopicPartition(self.name, partition)
        try:
            begins, end = self._consumer.get_watermark_offsets(place, timeout=SILENT_FOR_S)
        except KafkaException as error:
            raise CommandFailed(
                f"Kafka does not say where {self.name} ends: {error.args[0].str()}."
            ) from error
        return begins, end


def stretches(files: Sequence[Segment], first: int, end: int) -> Iterator[Stretch]:
    """Who has the records from *first* to before *end*: the archive's *files*, or else the log."""
    at = first
    for segment in files:
        if segment.last < at or segment.first >= end:
            continue
        if segment.first > at:
            yield Stretch(at, segment.first)
        yield Stretch(max(at, segment.first), min(segment.last + 1, end), segment.path)
        at = segment.last + 1
    if at < end:
        yield Stretch(at, end)


def committed(
    kafka: KafkaConnection, group: str, topic: str, partitions: Sequence[int]
) -> Mapping[int, int]:
    """What a consumer group has committed of *topic*, for each partition of which it has."""
    consumer = Consumer({**kafka.config(), "group.id": group, "log_level": 0})
    try:
        places = [TopicPartition(topic, partition) for partition in partitions]
        found = consumer.committed(places, timeout=SILENT_FOR_S)
    except KafkaException as error:
        raise CommandFailed(
            f"Kafka does not say what {group} has committed: {error.args[0].str()}."
        ) from error
    finally:
        consumer.close()
    return {place.partition: place.offset for place in found if place.offset >= 0}


def _consumed(consumer: Consumer, place: TopicPartition, end: int) -> Iterator[list[Record]]:
    heard_s = time.monotonic()
    while True:
        messages = consumer.consume(CHUNK, timeout=0.05)
        if messages:
            heard_s = time.monotonic()
        elif time.monotonic() - heard_s > SILENT_FOR_S:
            raise CommandFailed(
                f"Kafka has sent nothing of {place.topic}, partition {place.partition}, for "
                f"{SILENT_FOR_S:.0f} s. See `headrace status`, and repeat the command."
            )
        records = [record_of(message) for message in messages if message.error() is None]
        if wanted := [record for record in records if record.offset < end]:
            yield wanted
        if _ended(messages) or (records and records[-1].offset + 1 >= end):
            return


def record_of(message: Message) -> Record:
    """A message without an error, as the pipeline sees it."""
    headers: Any = message.headers() or ()
    return Record(
        partition=message.partition() or 0,
        offset=message.offset() or 0,
        timestamp_ms=message.timestamp()[1],
        key=message.key(),
        value=message.value(),
        headers=tuple(headers),
    )


def _ended(messages: Sequence[Message]) -> bool:
    """Whether the log's end has been reached; raises what Kafka refused."""
    errors = [error for message in messages if (error := message.error()) is not None]
    for error in errors:
        if error.code() == KafkaError._PARTITION_EOF:
            return True
        if not error.retriable():
            raise CommandFailed(f"Kafka refused: {error.str()}. Repeat the command.")
    return False


def _archived(path: Path, partition: int, first: int, end: int) -> Iterator[list[Record]]:
    with pq.ParquetFile(path) as file:
        for batch in file.iter_batches(CHUNK, columns=_COLUMNS):
            columns = (batch.column(name).to_pylist() for name in _COLUMNS)
            rows = zip(*columns, strict=True)
            records = [
                Record(partition, offset, at_ms, key, value, _headers(headers))
                for offset, at_ms, key, value, headers in rows
                if first <= offset < end
            ]
            if records:
                yield records


def _headers(pairs: Sequence[Mapping[str, Any]] | None) -> tuple[tuple[str, bytes | None], ...]:
    return tuple((pair["name"], pair["value"]) for pair in pairs or ())
