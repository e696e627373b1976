"""
Faust's Kafka transport, with three differences: where it begins to read, how much it hands over,
and when it asks Kafka.

Faust begins where the group has committed, and goes on from the log's beginning if that is gone.
Here each partition begins where its mark says, and a log that no longer reaches so far is refused.

Faust makes four tasks for each record; here what was fetched of a topic is one message, whose value
maps its partitions to their records, so the cost is the fetch's and not the record's.

aiokafka asks Kafka as soon as it has handed over what it had, and then not again until that is
taken, so whoever lets records gather gets those of before. Here it asks when it is asked, and
waits in Kafka for a fifth of a second at most.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, cast

from aiokafka.errors import (  # type: ignore[import-untyped]
    IllegalStateError,
    NoOffsetForPartitionError,
)
from faust.transport.consumer import Fetcher
from faust.transport.drivers import aiokafka
from faust.types import TP, AppT, ConsumerMessage

from stream.marks import LogMismatch

TakeOver = Callable[[Sequence[int]], Awaitable[Mapping[int, int]]]
"""Told which partitions of a topic are now ours, answers with the next offset of each one."""

SEEK_TIMEOUT_S = 60.0
NO_ROOM_S = 0.05  # the most between two fetches while records are in no hurry
LOOK_EVERY_S = 1.0
# The most that a fetch waits in Kafka for news. aiokafka has one under way at a time, so a topic
# that was held while it left is asked for no sooner than it is back.
FETCH_WAIT_MS = 200


class ConsumerThread(aiokafka.AIOKafkaConsumerThread):
    """Keeps all partitions paused but while it fetches. To be called in its own thread only."""

    _consumer: Any  # aiokafka's

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._held: set[str] = set()  # topics
        self._wanted: set[TP] = set()  # by the fetch that is under way

    def _create_worker_consumer(self, *args: Any, **kwargs: Any) -> Any:
        consumer = super()._create_worker_consumer(*args, **kwargs)
        consumer._fetch_max_wait_ms = FETCH_WAIT_MS  # Faust names 1.5 s, and no setting
        return consumer

    def hold(self, topic: str) -> None:
        """Ask Kafka for nothing of *topic* until `release`."""
        self._held.add(topic)
        self._consumer.pause(*(tp for tp in self._consumer.assignment() if tp.topic == topic))

    def release(self, topic: str) -> None:
        """Go on with what `hold` has held."""
        self._held.discard(topic)
        self._resume_wanted()

    def _resume_wanted(self) -> None:
        wanted = (tp for tp in self._consumer.assignment() if tp in self._wanted)
        self._consumer.resume(*(tp for tp in wanted if tp.topic not in self._held))

    async def _fetch_records(
        self, consumer: Any, active_partitions: set[TP], *args: Any, **kwargs: Any
    ) -> Mapping[TP, list[Any]]:
        self._wanted = active_partitions
        self._resume_wanted()
        try:
            return await super()._fetch_records(consumer, active_partitions, *args, **kwargs)
        finally:
            # Before the loop's next turn, in which aiokafka would ask anew.
            self._wanted = set()
            consumer.pause(*consumer.assignment())


class Consumer(aiokafka.Consumer):
    """Begins where the marks say, and hands over whole fetches."""

    transport: "Transport"

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        # The consumer's generation, and where its partitions begin: found when it was assigned
        # them, used before its first fetch.
        self._found: tuple[int, Mapping[TP, int]] | None = None
        self._sought = -1  # the generation whose partitions are where they should be
        self._looked_s = 0.0  # when topics were last looked for
        self.fetched_s = time.monotonic()  # when it last came back from Kafka, be it with no news

    def _new_consumer_thread(self) -> ConsumerThread:
        return ConsumerThread(self, loop=self.loop, beacon=self.beacon)

    async def perform_seek(self) -> None:
        """Find out where to begin; Faust calls this once partitions have been assigned."""
        generation = self.app.consumer_generation_id
        try:
            async with asyncio.timeout(SEEK_TIMEOUT_S):
                self._found = generation, await self._starts()
        except Exception as error:  # Faust would go on without having sought
            await self.app.crash(error)
            raise

    def hold(self, topic: str) -> None:
        """Ask Kafka for nothing of *topic* until `release`; a fetch for each record costs more."""
        self._in_its_thread(lambda thread: thread.hold(topic))

    def release(self, topic: str) -> None:
        """Go on with what `hold` has held."""
        self._in_its_thread(lambda thread: thread.release(topic))

    def _in_its_thread(self, do: Callable[[Any], None]) -> None:
        thread: Any = self._thread

        def call() -> None:
            if thread._consumer is not None:  # it has ended
                do(thread)

        thread.thread_loop.call_soon_threadsafe(call)

    def _look_for_topics(self) -> None:
        """
        Ask for metadata for as long as a topic is missing in them; a change makes us join anew.

        Kafka, just started, may not know its topics yet. A leader of the group who has heard that
        assigns nothing to anybody, and aiokafka would ask again only after five minutes.
        """

        def look(thread: Any) -> None:
            kafka = thread._consumer
            partitions_of = kafka._client.cluster.partitions_for_topic
            if any(partitions_of(topic) is None for topic in self.transport.take_over):
                kafka._client.force_metadata_update()

        if time.monotonic() - self._looked_s > LOOK_EVERY_S:
            self._looked_s = time.monotonic()
            self._in_its_thread(look)

    async def _starts(self) -> dict[TP, int]:
        """The lower of mark and commit for each partition: a store may have come back older."""
        mine = sorted(self.assignment())
        committed = await self.seek_to_committed()
        earliest = await self.earliest_offsets(*mine)
        latest = await self.highwaters(*mine)
        starts: dict[TP, int] = {}
        for topic, take_over in self.transport.take_over.items():
            partitions = [tp.partition for tp in mine if tp.topic == topic]
            for partition, marked in (await take_over(partitions)).items():
                tp = TP(topic, partition)
                start = min(marked, marked if committed[tp] is None else committed[tp])
                _require_reach(tp, start, marked, earliest[tp], latest[tp])
                starts[tp] = start
        return starts

    async def _drain_messages(self, fetcher: Fetcher) -> None:  # type: ignore[override]
        try:
            while not (self.should_stop or fetcher.should_stop):
                generation, records = await self._fetch()
                self.fetched_s = time.monotonic()
                for topic, fetched in _by_topic(records).items():
                    await self.callback(self._message(topic, fetched, generation))
        except self.consumer_stopped_errors:
            if not self.app.should_stop:
                raise

    async def _fetch(self) -> tuple[int, Mapping[TP, list[Any]]]:
        """
        What has arrived, stamped with the generation under which it was fetched.

        What a fetch brings while the partitions change hands is left out: it was read from before
        the seek that follows.
        """
        if not self.flow_active:
            await self.wait(self.can_resume_flow)  # type: ignore[arg-type]
        if not self.transport.room.is_set():
            await self.wait(self.transport.room, timeout=NO_ROOM_S)  # type: ignore[arg-type]
        generation = self.app.consumer_generation_id
        active = self._get_active_partitions()
        if not active:
            self._look_for_topics()
        if not active or not await self._seek_once(generation):
            await self.sleep(0.02)
            return generation, {}
        try:
            records = await self._getmany(active, timeout=1.0)
        except NoOffsetForPartitionError:
            return generation, {}  # of a new partition, from before the seek: it has one since
        if generation != self.app.consumer_generation_id or not self.flow_active:
            return generation, {}
        if any(tp.topic == self.transport.room_for for tp, fetched in records.items() if fetched):
            # Not when an agent has looked at them: the next fetch would have begun by then.
            self.transport.room.clear()
        return generation, records

    async def _seek_once(self, generation: int) -> bool:
        """Whether the partitions of *generation* are where they should be."""
        if self._sought != generation and self._found is not None and self._found[0] == generation:
            try:
                await self._thread.seek_wait(self._found[1])
            except IllegalStateError:
                return False  # they have gone to another in the meantime
            self._sought = generation
        return self._sought == generation

    def _message(self, topic: str, fetched: Mapping[int, Any], generation: int) -> ConsumerMessage:
        # Faust wants one partition and offset: its acknowledging, which reads them, is unused.
        partition, records = next(iter(fetched.items()))
        newest = records[-1]
        return ConsumerMessage(
            *(topic, partition, newest.offset),
            *(newest.timestamp / 1000, newest.timestamp_type),
            headers=None,
            key=None,
            value=cast("Any", fetched),
            checksum=None,
            tp=TP(topic, partition),
            generation_id=generation,
        )


def _by_topic(records: Mapping[TP, list[Any]]) -> Mapping[str, Mapping[int, list[Any]]]:
    """Topic to partition to records, none of them empty."""
    topics: dict[str, dict[int, list[Any]]] = {}
    for (topic, partition), fetched in records.items():
        if fetched:
            topics.setdefault(topic, {})[partition] = fetched
    return topics


class Transport(aiokafka.Transport):
    """
    Args:
        app: Whose transport it becomes.

    Attributes:
        take_over: By topic.
        room: While it is cleared, fetches are `NO_ROOM_S` apart. A fetch that brings something
            clears it; whoever takes that says when there is room again.
        room_for: The topic that this is about.
    """

    Consumer = Consumer

    def __init__(self, app: AppT) -> None:
        super().__init__(app.conf.broker_consumer, app)
        self.take_over: dict[str, TakeOver] = {}
        self.room = asyncio.Event()
        self.room.set()
        self.room_for = ""


def _require_reach(tp: TP, start: int, marked: int, earliest: int, latest: int) -> None:
    if start < earliest:
        raise LogMismatch(
            f"partition {tp.partition} of {tp.topic} is settled up to {start}, "
            f"and its log begins at {earliest}"
        )
    if marked > latest:
        raise LogMismatch(
            f"partition {tp.partition} of {tp.topic} is settled up to {marked}, "
            f"and its log ends at {latest}"
        )
