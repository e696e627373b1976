"""Following a broadcast topic: every process reads all of it, from its beginning, for ever."""

import threading
from collections.abc import Callable
from types import TracebackType
from typing import Self

import structlog
from confluent_kafka import Consumer, KafkaError, KafkaException, Message, TopicPartition

from services.errors import CommandFailed
from services.kafka.connection import KafkaConnection
from services.kafka.publishing import require_topic

log = structlog.get_logger()

OnRecord = Callable[[bytes, bytes | None, int, int], None]  # key, value, partition, offset


class NotCaughtUp(CommandFailed):
    """A broadcast topic could not be read to its end in time."""


class Follower:
    """
    Reads *topic* in a thread of its own, without a consumer group, and hands over each record.

    Args:
        kafka: Where Kafka is.
        topic: Full name of a compacted topic.
        on_record: Called in the thread for every record, in order for each partition.
    """

    def __init__(self, kafka: KafkaConnection, topic: str, on_record: OnRecord) -> None:
        self._topic = topic
        self._on_record = on_record
        self._consumer = Consumer(
            {
                **kafka.config(),
                "group.id": f"headrace-follow-{topic}",  # required by the library; never joined
                "enable.auto.commit": False,
                "auto.offset.reset": "earliest",
                "enable.partition.eof": True,
                "reconnect.backoff.max.ms": 1000,
                "log_level": 0,  # what matters is raised
            }
        )
        self._kafka = kafka
        self._behind: set[int] = set()
        self._caught_up = threading.Event()
        self._stopping = threading.Event()
        self._failure: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name=f"follow-{topic}", daemon=True)

    def start(self, timeout_s: float) -> Self:
        """
        Start following, and return once caught up with what the topic held.

        Raises:
            CommandFailed: If Kafka or the topic is not there.
            NotCaughtUp: After *timeout_s*.
        """
        partitions = require_topic(self._consumer, self._kafka, self._topic).partitions
        self._behind = set(partitions)
        self._consumer.assign([TopicPartition(self._topic, p, 0) for p in partitions])
        self._thread.start()
        if not self._caught_up.wait(timeout_s):
            raise NotCaughtUp(f"{self._topic} was not read to its end within {timeout_s:g} s")
        return self

    def check(self) -> None:
        """Raise what ended the thread, if anything did."""
        if self._failure is not None:
            raise self._failure

    def stop(self) -> None:
        """Stop following."""
        self._stopping.set()
        if self._thread.is_alive():
            self._thread.join(timeout=5)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

    def _run(self) -> None:
        try:
            while not self._stopping.is_set():
                # What has come is taken at once: `consume` alone would wait for more.
                if (first := self._consumer.poll(0.1)) is not None:
                    for message in (first, *self._consumer.consume(1000, timeout=0)):
                        self._take(message)
        except BaseException as error:  # handed to whoever calls `check`
            self._failure = error
            log.error("follower_failed", topic=self._topic, error=repr(error))
        finally:
            self._consumer.close()

    def _take(self, message: Message) -> None:
        error = message.error()
        if error is None:
            partition, offset = message.partition() or 0, message.offset() or 0
            self._on_record(message.key() or b"", message.value(), partition, offset)
        elif error.code() == KafkaError._PARTITION_EOF:
            self._behind.discard(message.partition())
            if not self._behind:
                self._caught_up.set()
        elif not error.retriable():
            raise KafkaException(error)
