"""When a consumer asks Kafka, and for what; see `stream.transport`."""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import faust
from confluent_kafka import Producer

from services.kafka.connection import KafkaConnection
from services.kafka.topics_setup import ensure_topics
from stream import topics
from stream.agents import add_refresh_slates, new_app
from stream.consume import Handle
from stream.records import Record
from stream.topics import with_prefix
from tests.integration.support import Servers, eventually

PREFIX = "unknown-at-first-"


def an_app(
    stack: Servers, directory: Path, topic: str, handle: Handle, on_ready: Callable[[], None]
) -> faust.App:
    """One that reads *topic* from its beginning."""

    async def from_the_beginning(partitions: Sequence[int]) -> Mapping[int, int]:
        return dict.fromkeys(partitions, 0)

    app = new_app(
        group=f"{topic}-group",
        kafka_servers=stack.kafka,
        instance_id="",
        session_timeout_s=10,
        directory=directory,
    )
    add_refresh_slates(
        app,
        topic=topic,
        handle=handle,
        take_over=from_the_beginning,
        batch_size=10,
        lanes=1,
        on_ready=on_ready,
    )
    return app


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

    app = an_app(stack, tmp_path, topic, handle, on_ready=lambda: assigned.append(None))
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


async def test_what_a_fetch_has_brought_is_looked_at_before_the_next_one(
    stack: Servers, tmp_path: Path
) -> None:
    """
    Else the next fetch brings the one record that came just after.

    It is then all that a batch begins with, and those after it wait for a whole batch.
    """
    topic = with_prefix("room-", topics.EVENTS)
    at_work, done = asyncio.Event(), asyncio.Event()
    fetched: list[Any] = []
    looked_at: list[bool] = []  # what had come, when another fetch began

    async def handle(records: Sequence[Record]) -> Mapping[int, int]:
        at_work.set()
        await done.wait()
        return {record.partition: record.offset + 1 for record in records}

    assigned: list[None] = []
    kafka = KafkaConnection(stack.kafka)
    await asyncio.to_thread(ensure_topics, kafka, prefix="room-")
    app = an_app(stack, tmp_path, topic, handle, on_ready=lambda: assigned.append(None))
    consumer: Any = app.consumer
    fetch = consumer._getmany

    async def getmany(*args: Any, **kwargs: Any) -> Any:
        if fetched:
            looked_at.append(at_work.is_set())
        found = await fetch(*args, **kwargs)
        fetched.extend(one for records in found.values() for one in records)
        return found

    consumer._getmany = getmany
    await app.start()
    try:
        await eventually(lambda: assigned, timeout_s=30)
        producer = Producer(kafka.config())
        producer.produce(topic, key=b"ada", value=b"{}")
        await asyncio.to_thread(producer.flush, 10)
        await eventually(lambda: looked_at)
    finally:
        done.set()
        await app.stop()
    assert all(looked_at)
