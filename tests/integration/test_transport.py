"""A consumer group whose topics become known after it has met; see `stream.transport`."""

import asyncio
from collections.abc import Mapping, Sequence
from pathlib import Path

from confluent_kafka import Producer

from services.kafka.connection import KafkaConnection
from services.kafka.topics_setup import ensure_topics
from stream import topics
from stream.agents import add_refresh_slates, new_app
from stream.records import Record
from stream.topics import with_prefix
from tests.integration.support import Servers, eventually

PREFIX = "unknown-at-first-"


async def test_a_group_that_met_before_its_topics_were_known_is_given_them_soon(
    stack: Servers, tmp_path: Path
) -> None:
    """
    Kafka, just started, has told a group's leader of no topics, and nobody was given anything.

    aiokafka itself asks again after five minutes.
    """
    topic = with_prefix(PREFIX, topics.EVENTS)
    seen: list[Record] = []
    assigned: list[None] = []

    async def handle(records: Sequence[Record]) -> Mapping[int, int]:
        seen.extend(records)
        return {record.partition: record.offset + 1 for record in records}

    async def from_the_beginning(partitions: Sequence[int]) -> Mapping[int, int]:
        return dict.fromkeys(partitions, 0)

    app = new_app(
        group=f"{PREFIX}group",
        kafka_servers=stack.kafka,
        instance_id="",
        session_timeout_s=10,
        directory=tmp_path,
    )
    add_refresh_slates(
        app,
        topic=topic,
        handle=handle,
        take_over=from_the_beginning,
        batch_size=10,
        lanes=1,
        on_ready=lambda: assigned.append(None),
    )
    await app.start()
    try:
        await eventually(lambda: assigned)  # of no partitions: the group has met

        kafka = KafkaConnection(stack.kafka)
        await asyncio.to_thread(ensure_topics, kafka, prefix=PREFIX)
        producer = Producer(kafka.config())
        producer.produce(topic, key=b"ada", value=b"{}")
        await asyncio.to_thread(producer.flush, 10)

        await eventually(lambda: seen, timeout_s=30)
    finally:
        await app.stop()
    assert [record.key for record in seen] == [b"ada"]
