"""
``headrace archiver``: keeps events.v1 as Parquet, for training and for folding again, and items.v1,
whose own topic forgets what an item was before.

The consumer group only shares out the partitions. Where to read on is what the files say; the
offsets committed are for whoever watches the lag.
"""

import logging
import os
import signal
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import click
import pyarrow as pa
import structlog
from confluent_kafka import (
    OFFSET_BEGINNING,
    Consumer,
    KafkaError,
    KafkaException,
    Message,
    TopicPartition,
)

from services.archive import reader as archive
from services.connection import connect
from services.errors import CommandFailed
from services.health import serve_http
from services.log_lines import configure_logging
from services.settings import ArchiverSettings
from services.telemetry import ArchiverMetrics
from stream import topics

log = structlog.get_logger()

POLL_S = 0.5
POLL_RECORDS = 2_000
KAFKA_TIMEOUT_S = 10.0

Place = tuple[str, int]  # topic, partition


@click.command()
def archiver() -> None:
    """
    Keep the event log and the catalogue's history as Parquet files under the data directory.

    Several archivers on the same directory share the partitions. It may be killed at any time:
    on the next start it goes on where its files end.
    """
    settings = connect(ArchiverSettings)
    configure_logging(
        settings.log_format, settings.log_level, key=settings.log_key.get_secret_value()
    )
    serve_http(settings.metrics_port, settings.metrics_host)
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    Archiver(
        _consumer(settings),
        [topics.with_prefix(settings.prefix, name) for name in (topics.EVENTS, topics.ITEMS)],
        settings.archive_dir,
        roll_records=settings.archive_roll_records,
        roll_bytes=settings.archive_roll_bytes,
        roll_s=settings.archive_roll_s,
        ready_file=settings.ready_file,
    ).run(stop)


@dataclass
class _Unfinished:
    """Records of one partition that are not in a file yet."""

    since_s: float  # monotonic
    messages: list[Message] = field(default_factory=list)
    size_bytes: int = 0

    def add(self, message: Message) -> None:
        self.messages.append(message)
        self.size_bytes += len(message.key() or b"") + len(message.value() or b"")


class Archiver:
    """Copies topics into files, each into a directory of its name."""

    def __init__(
        self,
        consumer: Consumer,
        names: Sequence[str],
        directory: Path,
        *,
        roll_records: int,
        roll_bytes: int,
        roll_s: float,
        ready_file: Path | None = None,
        metrics: ArchiverMetrics | None = None,
    ) -> None:
        self._consumer = consumer
        self._topics = names
        self._directory = directory
        self._roll_records, self._roll_bytes, self._roll_s = roll_records, roll_bytes, roll_s
        self._ready_file = ready_file
        self._metrics = metrics or ArchiverMetrics()
        self._unfinished: dict[Place, _Unfinished] = {}

    def run(self, stop: threading.Event) -> None:
        """
        Archive until *stop* is set; then finish the files.

        Raises:
            CommandFailed: If the files cannot be written, or do not belong to this topic, or if
                Kafka refuses for good.
        """
        self._consumer.subscribe(
            list(self._topics),
            on_assign=self._assigned,
            on_revoke=self._revoked,
            on_lost=self._lost,
        )
        try:
            while not stop.is_set():
                for message in self._consumer.consume(POLL_RECORDS, POLL_S):
                    self._take(message)
                self._finish(self._due())
                waiting = sum(len(some.messages) for some in self._unfinished.values())
                self._metrics.set_unfinished(waiting)
            self._finish(list(self._unfinished))
        except OSError as error:
            raise CommandFailed(
                f"cannot write the archive in {self._directory}: {error.strerror}. Make room, or "
                "set HEADRACE_DATA_DIR, and start again: nothing is lost while Kafka keeps it."
            ) from error
        except KafkaException as error:
            raise CommandFailed(
                f"Kafka refused: {error.args[0].str()}. Nothing is lost."
            ) from error
        finally:
            # Leaving must not finish files again: what failed just now would only fail twice.
            self._unfinished.clear()
            self._consumer.close()

    def _take(self, message: Message) -> None:
        if error := message.error():
            _refuse(error, message.topic() or ", ".join(self._topics))
            return
        topic, partition = message.topic(), message.partition()
        assert topic is not None and partition is not None  # noqa: S101  # without an error
        if (topic, partition) not in self._unfinished:
            self._unfinished[topic, partition] = _Unfinished(time.monotonic())
        self._unfinished[topic, partition].add(message)

    def _due(self) -> list[Place]:
        now_s = time.monotonic()
        return [
            place
            for place, some in self._unfinished.items()
            if len(some.messages) >= self._roll_records
            or some.size_bytes >= self._roll_bytes
            or now_s - some.since_s >= self._roll_s
        ]

    def _finish(self, places: Sequence[Place]) -> None:
        """Turn what there is of *places* into files, then commit."""
        for topic, partition in places:
            messages = self._unfinished.pop((topic, partition)).messages
            began_s = time.monotonic()
            directory = archive.partition_dir(self._directory / topic, partition)
            segment = archive.append(directory, _table(messages))
            if segment is None:
                log.warning("records_archived_by_another", topic=topic, partition=partition)
                continue
            seconds = time.monotonic() - began_s
            size_bytes = segment.path.stat().st_size
            self._metrics.count_file(len(messages), size_bytes, seconds)
            self._metrics.set_next_offset(topic, partition, segment.last + 1)
            log.info(
                "segment_archived",
                topic=topic,
                partition=partition,
                first=segment.first,
                last=segment.last,
                size_bytes=size_bytes,
                seconds=round(seconds, 4),
            )
            self._consumer.commit(
                offsets=[TopicPartition(topic, partition, segment.last + 1)],
                asynchronous=True,
            )

    def _assigned(self, consumer: Consumer, partitions: list[TopicPartition]) -> None:
        for place in partitions:
            place.offset = self._resume_at(consumer, place)
        consumer.assign(partitions)
        for topic in {place.topic for place in partitions}:
            known = consumer.list_topics(topic, KAFKA_TIMEOUT_S).topics[topic].partitions
            archive.keep_partition_count(self._directory / topic, len(known))
        self._metrics.set_partitions(len(partitions))
        log.info(
            "partitions_assigned",
            offsets={f"{place.topic} {place.partition}": place.offset for place in partitions},
        )
        if self._ready_file:
            self._ready_file.touch()

    def _resume_at(self, consumer: Consumer, place: TopicPartition) -> int:
        directory = self._directory / place.topic
        wanted = archive.next_offset(archive.partition_dir(directory, place.partition))
        if wanted is None:
            return int(OFFSET_BEGINNING)
        oldest, end = consumer.get_watermark_offsets(place, timeout=KAFKA_TIMEOUT_S)
        if wanted > end:
            raise CommandFailed(
                f"the archive in {directory} ends at offset {wanted - 1} of partition "
                f"{place.partition}, but the topic {place.topic} ends at {end - 1}: it was made "
                "anew. Move the archive away, then start again."
            )
        if wanted < oldest:
            log.error(
                "records_expired_before_archived",
                topic=place.topic,
                partition=place.partition,
                first=wanted,
                last=oldest - 1,
            )
        return max(wanted, oldest)

    def _revoked(self, _: Consumer, partitions: list[TopicPartition]) -> None:
        gone = [(place.topic, place.partition) for place in partitions]
        self._finish([place for place in gone if place in self._unfinished])
        self._metrics.set_partitions(0)
        log.info("partitions_revoked", partitions=gone)

    def _lost(self, _: Consumer, partitions: list[TopicPartition]) -> None:
        # They belong to another archiver by now, which reads the same records again.
        for place in partitions:
            self._unfinished.pop((place.topic, place.partition), None)
        self._metrics.set_partitions(0)
        log.warning("partitions_lost")


def _consumer(settings: ArchiverSettings) -> Consumer:
    return Consumer(
        {
            **settings.kafka.config(),
            "group.id": topics.with_prefix(settings.prefix, settings.archiver_group),
            "enable.auto.commit": False,
            "auto.offset.reset": "earliest",
            "client.id": f"headrace-archiver-{os.getpid()}",
            # Files are rolled by the half minute: reading in large bites spares the broker.
            "fetch.min.bytes": 1024 * 1024,
            "fetch.wait.max.ms": 500,
        },
        logger=logging.getLogger("librdkafka"),  # else it writes its own lines to stderr
    )


def _refuse(error: KafkaError, topic: str) -> None:
    """Stop for good where waiting cannot help; the client itself retries the rest."""
    if error.code() in (KafkaError.UNKNOWN_TOPIC_OR_PART, KafkaError.TOPIC_AUTHORIZATION_FAILED):
        raise CommandFailed(
            f"cannot read the topic {topic}: {error.str()}. `headrace setup --topics` creates it."
        )
    if error.fatal():
        raise KafkaException(error)
    log.warning("kafka_unreachable", reason=error.name())


def _table(messages: Sequence[Message]) -> pa.Table:
    columns: dict[str, list[Any]] = {
        "partition": [message.partition() for message in messages],
        "offset": [message.offset() for message in messages],
        "kafka_timestamp_ms": [message.timestamp()[1] for message in messages],
        "key": [message.key() for message in messages],
        "value": [message.value() for message in messages],
        "headers": [_headers(message) for message in messages],
    }
    return pa.Table.from_pydict(columns, schema=archive.SCHEMA)


def _headers(message: Message) -> list[dict[str, Any]]:
    # A list of pairs: names may repeat, and their order counts.
    pairs: Any = message.headers() or []
    return [{"name": name, "value": value} for name, value in pairs]
