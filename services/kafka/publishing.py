"""The one way our tools write to Kafka: every record acknowledged by all replicas, or an error."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from confluent_kafka import Consumer, KafkaError, KafkaException, Message, Producer

from services.errors import CommandFailed
from services.kafka.connection import KafkaConnection

Header = tuple[str, bytes | None]
Delivered = Callable[[int, int], None]  # partition, offset
CONNECT_TIMEOUT_S = 5.0
FLUSH_TIMEOUT_S = 70.0  # longer than message.timeout.ms, so that every record has had its report


class NotDelivered(CommandFailed):
    """Kafka did not take a record."""


class Publisher:
    """
    A producer that never loses quietly.

    It puts a record where Kafka's Java clients would (librdkafka's own default does not), keeps
    their order, and raises `NotDelivered` from the next call after a record was refused.

    Args:
        linger_ms: How long records gather before they are sent.
        idempotent: Never write a record twice. Asking for that takes librdkafka half a second
            before the first record, which is long for one that may as well be written twice.
    """

    def __init__(
        self,
        kafka: KafkaConnection,
        *,
        client_id: str = "headrace-tools",
        linger_ms: int = 5,
        idempotent: bool = True,
    ) -> None:
        self._kafka = kafka
        self._error: KafkaError | None = None
        self._producer = Producer(
            {
                **kafka.config(),
                "client.id": client_id,
                "partitioner": "murmur2_random",
                "acks": "all",
                "enable.idempotence": idempotent,
                "linger.ms": linger_ms,
                "compression.type": "lz4",
                "message.timeout.ms": 60_000,
                "message.max.bytes": 4 * 1024 * 1024,  # each topic has its own, lower limit
                "queue.buffering.max.kbytes": 64 * 1024,
                "log_level": 3,  # errors only: what matters is raised
            }
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if kind is None:
            self.flush()
        else:  # the first error is the one to tell
            self._producer.flush(FLUSH_TIMEOUT_S)

    def cluster_id(self, topic: str) -> str:
        """
        The cluster's id, once it is known to be there and to have *topic*.

        Raises:
            CommandFailed: Naming what is missing and what to do.
        """
        return require_topic(self._producer, self._kafka, topic).cluster_id

    def send(
        self,
        topic: str,
        key: bytes | None,
        value: bytes | None,
        *,
        headers: Sequence[Header] = (),
        delivered: Delivered | None = None,
    ) -> None:
        """Queue one record; waits while the queue is full. *delivered* is called on its report."""
        self._raise_refused()

        def report(error: KafkaError | None, message: Message) -> None:
            if error is not None:
                self._error = self._error or error
            elif delivered is not None:
                delivered(message.partition() or 0, message.offset() or 0)

        while True:
            try:
                self._producer.produce(
                    topic, key=key, value=value, headers=list(headers), on_delivery=report
                )
                break
            except BufferError:
                self._producer.poll(0.1)
                self._raise_refused()
            except KafkaException as error:
                raise NotDelivered(f"Kafka refused a record: {error.args[0].str()}") from error
        self._producer.poll(0)

    def poll(self, timeout_s: float = 0.0) -> None:
        """Serve delivery reports for up to *timeout_s*."""
        self._producer.poll(timeout_s)
        self._raise_refused()

    def flush(self) -> None:
        """Wait until every record is acknowledged."""
        unsent = self._producer.flush(FLUSH_TIMEOUT_S)
        self._raise_refused()
        if unsent:
            raise NotDelivered(f"Kafka at {self._kafka} did not take {unsent} records in time.")

    def _raise_refused(self) -> None:
        if self._error is not None:
            raise NotDelivered(f"Kafka refused a record: {self._error.str()}")


@dataclass(frozen=True, slots=True)
class FoundTopic:
    """A topic that is there."""

    cluster_id: str
    partitions: tuple[int, ...]  # ascending


def require_topic(client: Producer | Consumer, kafka: KafkaConnection, topic: str) -> FoundTopic:
    """
    Where *topic* is, once Kafka is known to be there and to have it.

    Raises:
        CommandFailed: Naming what is missing and what to do.
    """
    try:
        metadata = client.list_topics(topic, timeout=CONNECT_TIMEOUT_S)
    except KafkaException as error:
        raise CommandFailed(
            f"no Kafka at {kafka}. Start `headrace up`, or set HEADRACE_KAFKA_SERVERS."
        ) from error
    if metadata.topics[topic].error is not None:
        raise CommandFailed(
            f"Kafka at {kafka} has no topic {topic}. Create it: headrace setup --topics."
        )
    partitions = tuple(sorted(metadata.topics[topic].partitions))
    return FoundTopic(str(metadata.cluster_id), partitions)
