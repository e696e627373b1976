"""How the worker publishes: a whole micro-batch at once, acknowledged by every replica."""

import asyncio
from collections.abc import Sequence

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
        self._timeout_s = timeout_s
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

        Raises:
            KafkaException: The first refusal. Some of the others may have been published.
        """
        if records:
            await asyncio.to_thread(self._publish, records)

    def _publish(self, records: Sequence[Outgoing]) -> None:
        refusals: list[KafkaError] = []

        def delivered(error: KafkaError | None, _: Message) -> None:
            if error is not None:
                refusals.append(error)

        for record in records:
            self._producer.produce(
                with_prefix(self._prefix, record.topic),
                key=record.key,
                value=record.value,
                headers=list(record.headers),
                on_delivery=delivered,
                partition=-1 if record.partition is None else record.partition,
            )
        unsent = self._producer.flush(self._timeout_s + 5)
        if refusals:
            raise KafkaException(refusals[0])
        if unsent:
            raise KafkaException(KafkaError(KafkaError._MSG_TIMED_OUT))
