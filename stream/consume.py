"""
Micro-batches from a Faust stream: what has arrived is taken, handled, then committed, in order.

Offsets are committed here and Faust's own acknowledging is left unused: it computes what to commit
from a list of gaps that, once two one-record gaps lie side by side, covers records still at work
(`faust.transport.consumer._new_offset`), and it drops a commit that did not go through.
"""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, contextmanager
from time import perf_counter
from typing import Any

import faust
import structlog
from faust.types import TP, EventT, StreamT

from stream.records import Record

log = structlog.get_logger()

COMMIT_EVERY_S = 1.0
FEW = 1 / 5  # of a full batch: beside fewer, neither a second batch nor a fetch is worth its cost
FETCHED_WITHIN_S = 0.05  # what has gathered while nothing was fetched
NEARLY_DONE = 0.7  # of a large batch's usual time: what is fetched from here on arrives as it ends

Handle = Callable[[Sequence[Record]], Awaitable[Mapping[int, int]]]


class MicroBatches:
    """
    Feeds one handler in micro-batches; while one is in flight the next one gathers.

    Partitions are shared out among lanes, and each lane has one micro-batch in flight: while one
    waits for a server, another computes. Where few records wait there is one micro-batch in flight,
    of all partitions. A partition's records, and so a user's, are handled in their order.

    What waits is bounded: a partition with two batches of records waiting is not fetched from, so
    it holds at most those and its last fetch. A batch takes the same share of each partition that
    has records waiting, so that a busy one does not hold up the others.

    Args:
        app: Whose consumer commits; its transport is `stream.transport.Transport`.
        topic: The topic's full name.
        handle: Takes records in offset order for each partition, and returns the offset to commit
            for each partition. What it raises stops the worker, and nothing is committed.
        batch_size: Most records in a micro-batch.
        lanes: Most micro-batches in flight.
        every_s: The least from the start of a lane's micro-batch to that of its next, unless it
            was full. If it is more than 0, nothing is fetched from a start until shortly before the
            next: what gathers comes in one fetch, and what the next one takes is not of before.
        room: Cleared while there is no hurry to fetch, because records wait or are at work: a fetch
            for each record costs more than it brings, and what comes early is old when taken. Set
            when a micro-batch is done, or nearly done: see `_fetching_ahead`.
        on_ready: Called whenever partitions have been assigned, be it none.
    """

    def __init__(
        self,
        app: faust.App,
        *,
        topic: str,
        handle: Handle,
        batch_size: int,
        lanes: int = 1,
        every_s: float = 0.0,
        room: asyncio.Event | None = None,
        on_ready: Callable[[], None] | None = None,
    ) -> None:
        self._app = app
        self._on_ready = on_ready
        self._topic = topic
        self._handle = handle
        self._batch_size = batch_size
        self._few = int(FEW * batch_size)
        self._every_s = every_s
        self._room = room or asyncio.Event()
        self._waiting: dict[int, deque[Any]] = {}  # partition: records as aiokafka has them
        self._generation: int | None = None  # of all that waits
        self._arrived = [asyncio.Event() for _ in range(lanes)]
        self._in_flight = [asyncio.Lock() for _ in range(lanes)]
        self._at_work: set[int] = set()  # partitions of the batches in flight
        self._usual_s = 0.0  # from a micro-batch's start to its end, lately
        self._assigned = asyncio.Event()
        self._settled: dict[TP, int] = {}  # the next offset of each partition
        self._uncommitted: dict[TP, int] = {}
        app.on_partitions_assigned.connect(self._on_assigned)
        app.on_partitions_revoked.connect(self._on_revoked)

    async def run(self, fetches: StreamT[Any]) -> None:
        """Handle the records of *fetches* until the stream ends."""
        handling = (self._handle_batches(lane) for lane in range(len(self._in_flight)))
        work = (self._gather(fetches), self._keep_committing(), *handling)
        tasks = {asyncio.create_task(one) for one in work}
        try:
            # Whichever ends first has failed: awaiting it raises its reason.
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                await task
        finally:
            for task in tasks:
                task.cancel()

    async def settle(self) -> None:
        """Take nothing more, drop what only waits, and let the batches in flight be committed."""
        self._assigned.clear()
        self._settled.clear()
        self._waiting.clear()
        self._see_room()
        async with AsyncExitStack() as settled:
            for in_flight in self._in_flight:
                await settled.enter_async_context(in_flight)
            await self._commit()
            # One that did not go through is not tried again. Kafka would answer it after the
            # request to join the group anew, refusing it as it names the member that was, and
            # aiokafka would take that for the end of the new membership, time and again.
            self._uncommitted.clear()

    @property
    def assigned(self) -> bool:
        """Whether it has been told which partitions are its own, be it none."""
        return self._assigned.is_set()

    def lag(self) -> dict[int, int]:
        """Records not settled yet, for each partition that has had any since its assignment."""
        ends = {tp: self._end_of(tp) for tp in self._settled}
        return {
            tp.partition: max(0, end - at)
            for tp, at in self._settled.items()
            if (end := ends[tp]) is not None
        }

    def _end_of(self, tp: TP) -> int | None:
        try:
            return self._app.consumer.highwater(tp)  # None before its first fetch
        except AssertionError:  # it has gone to another, which the consumer's thread learns first
            return None

    async def _gather(self, fetches: StreamT[Any]) -> None:
        async for fetch in fetches.noack().events():  # type: ignore[attr-defined]
            self._put(fetch)

    def _put(self, fetch: EventT[Any]) -> None:
        generation = fetch.message.generation_id
        # Faust does not take back what an agent holds when its partitions go to another.
        if generation != self._app.consumer_generation_id:
            return
        if generation != self._generation:
            self._generation = generation
            self._waiting.clear()
        fetched: Any = fetch.value  # by partition: see `stream.transport`
        for partition, records in fetched.items():
            waiting = self._waiting.setdefault(partition, deque())
            waiting.extend(records)
            if len(waiting) >= 2 * self._batch_size:
                self._app.consumer.pause_partitions({TP(self._topic, partition)})
        self._wake_lanes()
        self._see_room()

    def _wake_lanes(self) -> None:
        for partition in self._waiting:
            self._arrived[self._lane_of(partition)].set()

    def _see_room(self) -> None:
        if self._at_work or self._waiting:
            self._room.clear()
        else:
            self._room.set()

    def _lane_of(self, partition: int) -> int:
        return partition % len(self._in_flight)

    async def _handle_batches(self, lane: int) -> None:
        while True:
            await self._arrived[lane].wait()
            await self._assigned.wait()
            # No await from here to the lock: a revocation sees the batch either waiting or at work.
            records = self._take(lane)
            if records:
                partitions = {record.partition for record in records}
                self._at_work |= partitions
                self._hold()
                async with self._in_flight[lane]:
                    took_s = await self._handle_batch(records)
                self._at_work -= partitions
                self._see_room()
                self._wake_lanes()
                is_full = len(records) == self._batch_size
                await self._release_within(0.0 if is_full else max(0.0, self._every_s - took_s))
            else:
                self._arrived[lane].clear()
                self._see_room()

    def _hold(self) -> None:
        if self._every_s:
            consumer: Any = self._app.consumer
            consumer.hold(self._topic)

    async def _release_within(self, seconds: float) -> None:
        """Wait so long; at the end, what has gathered meanwhile has been fetched."""
        if self._every_s:
            fetching_s = min(FETCHED_WITHIN_S, seconds)
            await asyncio.sleep(seconds - fetching_s)
            consumer: Any = self._app.consumer
            consumer.release(self._topic)
            await asyncio.sleep(fetching_s)

    def _take(self, lane: int) -> list[Record]:
        if self._generation != self._app.consumer_generation_id:
            self._waiting.clear()
        taken: list[Record] = []
        mine = self._open_to(lane)
        shortest_first = sorted(mine, key=lambda one: len(one[1]))
        for left, (partition, waiting) in zip(
            range(len(shortest_first), 0, -1), shortest_first, strict=True
        ):
            share = -(-(self._batch_size - len(taken)) // left)  # rounded up
            was_full = len(waiting) >= 2 * self._batch_size
            taken += (_record(waiting.popleft()) for _ in range(min(share, len(waiting))))
            if was_full and len(waiting) < 2 * self._batch_size:
                self._app.consumer.resume_partitions({TP(self._topic, partition)})
            if not waiting:
                del self._waiting[partition]
        return taken

    def _open_to(self, lane: int) -> list[tuple[int, deque[Any]]]:
        """The partitions that *lane* may take from at this moment, and what waits there."""
        if sum(map(len, self._waiting.values())) <= self._few:
            return [] if self._at_work else list(self._waiting.items())
        return [
            (partition, waiting)
            for partition, waiting in self._waiting.items()
            if self._lane_of(partition) == lane and partition not in self._at_work
        ]

    async def _handle_batch(self, records: Sequence[Record]) -> float:
        """The seconds that it took."""
        began_s = perf_counter()
        with self._fetching_ahead(len(records)):
            offsets = await self._handle(records)
        took_s = perf_counter() - began_s
        self._usual_s += (took_s - self._usual_s) / 8
        settled = {TP(self._topic, partition): at for partition, at in offsets.items()}
        self._settled |= settled
        self._uncommitted |= settled
        return took_s

    @contextmanager
    def _fetching_ahead(self, records: int) -> Iterator[None]:
        """
        Make room shortly before a micro-batch will be done, so that the next one need not wait.

        Not beside few records: a fetch takes processor time that they want, and one that begins as
        they end brings what has come until then.
        """
        self._room.clear()
        if records <= self._few:
            yield
            return
        soon_s = NEARLY_DONE * self._usual_s
        nearly_done = asyncio.get_running_loop().call_later(soon_s, self._room.set)
        try:
            yield
        finally:
            nearly_done.cancel()

    async def _keep_committing(self) -> None:
        # The marks tell what is settled: a commit with every batch would cost each a round trip,
        # and save a crash the reading of a second's records, which it skips.
        while True:
            await asyncio.sleep(COMMIT_EVERY_S)
            await self._commit()

    async def _commit(self) -> None:
        # One that does not go through is tried again with the next.
        consumer: Any = self._app.consumer
        mine = consumer.assignment()
        offsets = {tp: at for tp, at in self._uncommitted.items() if tp in mine}
        if not offsets or await consumer._commit_offsets(offsets):
            self._uncommitted = {
                tp: at
                for tp, at in self._uncommitted.items()
                if tp in mine and offsets.get(tp) != at
            }

    async def _on_assigned(self, app: Any, /, *args: Any, signal: Any, **_: Any) -> None:
        (assigned,) = args
        mine = sorted(tp.partition for tp in assigned if tp.topic == self._topic)
        log.info("partitions_assigned", topic=self._topic, partitions=mine)
        self._assigned.set()
        if self._on_ready is not None:
            self._on_ready()

    async def _on_revoked(self, app: Any, /, *args: Any, signal: Any, **_: Any) -> None:
        (revoked,) = args
        await self.settle()
        mine = sorted(tp.partition for tp in revoked if tp.topic == self._topic)
        log.info("partitions_revoked", topic=self._topic, partitions=mine)


def _record(fetched: Any) -> Record:
    return Record(
        partition=fetched.partition,
        offset=fetched.offset,
        timestamp_ms=fetched.timestamp,
        key=fetched.key,
        value=fetched.value,
        headers=tuple(fetched.headers),
    )
