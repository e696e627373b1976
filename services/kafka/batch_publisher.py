"""How the worker publishes: a whole micro-batch at once, acknowledged by every replica."""

import asyncio
import threading
from collections.abc import Sequence
from contextlib import suppress

from confluent_kafka import KafkaError, KafkaException, Message, Producer

from services.kafka.connection import KafkaConnection
from services.kafka.publishing import require_topic
from stream.records import Outgoing
from stream.topics import with_prefix

# A dead letter holds a whole refused record and its reason; each topic has its own, lower limit.
_MAX_RECORD_BYTES = 4 * 1024 * 1024


class BatchPublisher:
    """
    `stream.pipeline.Publish` on Kafka.

    Args:
        kafka: Where Kafka is.
        prefix: Put before each topic's name.
        timeout_s: After this a record that is not acknowledged has failed.
    """

    def __init__(self, kafka: KafkaConnection, *, prefix: str, timeout_s: float = 30.0) -> None:
        self._kafka = kafka
        self._prefix = prefix
        self._producer = Producer(
            {
                **kafka.config(),
                "client.id": "headrace-worker",
                "partitioner": "murmur2_random",
                "acks": "all",
                "enable.idempotence": True,
                "linger.ms": 0,  # the batch is whole already
                "compression.type": "lz4",
                "message.timeout.ms": int(timeout_s * 1000),
                "message.max.bytes": _MAX_RECORD_BYTES,
                "reconnect.backoff.max.ms": 1000,
                "log_level": 0,  # what matters is raised
            }
        )
        # Reports come when they come: a thread of its own waits for them, and no other does.
        threading.Thread(target=self._serve_reports, name="delivery-reports", daemon=True).start()

    def partitions_of(self, topic: str) -> int:
        """
        How many partitions *topic* has: what decides where a key belongs.

        Raises:
            CommandFailed: If Kafka or the topic is not there.
        """
        name = with_prefix(self._prefix, topic)
        return len(require_topic(self._producer, self._kafka, name).partitions)

    async def __call__(self, records: Sequence[Outgoing]) -> None:
        """
        Publish *records*, each key's in order, and wait until all are acknowledged.

        Several may be on their way at once; each waits for its own.

        Raises:
            KafkaException: The first refusal. Some of the others may have been published.
        """
        if not records:
            return
        reports = _Reports(len(records))
        for record in records:
            self._producer.produce(
                with_prefix(self._prefix, record.topic),
                key=record.key,
                value=record.value,
                headers=list(record.headers),
                on_delivery=reports.take,
                partition=-1 if record.partition is None else record.partition,
            )
        await reports.complete

    def _serve_reports(self) -> None:
        while True:
            self._producer.poll(1.0)


class _Reports:
    """Counts the delivery reports of some records; made in the event loop, fed by a thread."""

    def __init__(self, missing: int) -> None:
        self._loop = asyncio.get_running_loop()
        self._missing = missing
        self._refusal: KafkaError | None = None
        self.complete = self._loop.create_future()

    def take(self, error: KafkaError | None, _: Message) -> None:
        """Called once for each record, at the latest when its time is up."""
        self._missing -= 1
        self._refusal = self._refusal or error
        if not self._missing:
            with suppress(RuntimeError):  # the loop has ended, and nobody waits
                self._loop.call_soon_threadsafe(self._tell)

    def _tell(self) -> None:
        if self.complete.cancelled():
            return
        if self._refusal is not None:
            self.complete.set_exception(KafkaException(self._refusal))
        else:
            self.complete.set_result(None)
