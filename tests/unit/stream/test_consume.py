"""What waits between Faust and the pipeline: bounded, shared out fairly, dropped when it is old."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import asynccontextmanager
from time import perf_counter
from types import SimpleNamespace
from typing import Any

import pytest
from faust.types import TP

from stream.consume import MicroBatches
from stream.records import Record

GENERATION = 7


class FakeConsumer:
    """Remembers what was committed, and what is not fetched from."""

    def __init__(self) -> None:
        self.paused: set[TP] = set()
        self.committed: dict[TP, int] = {}
        self.refusing = False
        self.held: set[str] = set()  # topics
        self.gathered: Callable[[], None] = lambda: None  # brings what has come while it was held

    def hold(self, topic: str) -> None:
        self.held.add(topic)

    def release(self, topic: str) -> None:
        self.held.discard(topic)
        self.gathered()

    def pause_partitions(self, tps: Iterable[TP]) -> None:
        self.paused |= set(tps)

    def resume_partitions(self, tps: Iterable[TP]) -> None:
        self.paused -= set(tps)

    def assignment(self) -> set[TP]:
        return {TP("events", partition) for partition in range(8)}

    async def _commit_offsets(self, offsets: dict[TP, int]) -> bool:
        if not self.refusing:
            self.committed |= offsets
        return not self.refusing


class FakeStream:
    """Fetches, as the transport hands them over."""

    def __init__(self) -> None:
        self._queue: asyncio.Queue[Any] = asyncio.Queue()

    def put(self, partition: int, offsets: Sequence[int], generation: int = GENERATION) -> None:
        records = [
            SimpleNamespace(
                partition=partition, offset=at, timestamp=at, key=b"k", value=b"v", headers=()
            )
            for at in offsets
        ]
        message = SimpleNamespace(generation_id=generation)
        self._queue.put_nowait(SimpleNamespace(message=message, value={partition: records}))

    def noack(self) -> "FakeStream":
        return self

    async def events(self) -> AsyncIterator[Any]:
        while True:
            yield await self._queue.get()


class Worker:
    """A `MicroBatches` whose handler keeps what it is given, once it is let."""

    def __init__(self, batch_size: int = 4, lanes: int = 1, every_s: float = 0.0) -> None:
        signal = SimpleNamespace(connect=lambda _: None)
        self.consumer = FakeConsumer()
        self.app: Any = SimpleNamespace(
            consumer=self.consumer,
            consumer_generation_id=GENERATION,
            on_partitions_assigned=signal,
            on_partitions_revoked=signal,
        )
        self.stream = FakeStream()
        self.handled: list[list[tuple[int, int]]] = []
        self.done = asyncio.Semaphore(0)  # released with each batch
        self.open = asyncio.Event()
        self.room = asyncio.Event()
        self.batches = MicroBatches(
            self.app,
            topic="events",
            handle=self.handle,
            batch_size=batch_size,
            lanes=lanes,
            every_s=every_s,
            room=self.room,
        )

    async def handle(self, records: Sequence[Record]) -> dict[int, int]:
        await self.open.wait()
        self.handled.append([(record.partition, record.offset) for record in records])
        self.done.release()
        return {record.partition: record.offset + 1 for record in records}

    async def __aenter__(self) -> "Worker":
        assigned = {TP("events", 0)}
        await self.batches._on_assigned(self.app, assigned, signal=None)
        self._running = asyncio.create_task(self.batches.run(self.stream))  # type: ignore[arg-type]
        return self

    async def __aexit__(self, *_: object) -> None:
        self._running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await self._running


async def turn() -> None:
    """Let everything go on that can."""
    for _ in range(20):
        await asyncio.sleep(0)


async def test_a_batch_takes_the_same_share_of_each_partition() -> None:
    """One busy user's partition must not hold up the others."""
    async with Worker(batch_size=6) as worker:
        worker.stream.put(0, range(100))
        worker.stream.put(1, [0])
        worker.stream.put(2, range(100))
        await turn()
        worker.open.set()
        await turn()

    second = worker.handled[1]
    assert [partition for partition, _ in second].count(0) == 3
    assert [partition for partition, _ in second].count(2) == 3
    assert (1, 0) in worker.handled[0] + second
    offsets = [at for batch in worker.handled for partition, at in batch if partition == 0]
    assert offsets == list(range(100))


async def test_lanes_have_batches_in_flight_at_once_and_keep_each_partitions_order() -> None:
    """While one waits for Triton, another computes; a user's events stay in their order."""
    async with Worker(batch_size=4, lanes=2) as worker:
        for partition in range(4):
            worker.stream.put(partition, range(6))
        await turn()
        locked = [in_flight.locked() for in_flight in worker.batches._in_flight]
        worker.open.set()
        await turn()

    assert locked == [True, True]
    assert all(len({partition % 2 for partition, _ in batch}) == 1 for batch in worker.handled)
    for partition in range(4):
        assert [at for batch in worker.handled for p, at in batch if p == partition] == [*range(6)]


async def test_a_partition_with_two_batches_waiting_is_not_fetched_from() -> None:
    """At twice the capacity memory must not grow: what is not fetched lies in Kafka."""
    async with Worker(batch_size=4) as worker:
        worker.stream.put(0, range(9))
        worker.stream.put(1, range(3))
        await turn()
        worker.stream.put(0, range(9, 13))
        await turn()

        assert worker.consumer.paused == {TP("events", 0)}
        worker.open.set()
        await turn()

    assert worker.consumer.paused == set()
    assert sum(map(len, worker.handled)) == 16


async def test_few_records_make_one_batch_of_all_partitions() -> None:
    """Two batches of one record each cost nearly twice what one of two records does."""
    async with Worker(batch_size=48, lanes=2) as worker:
        worker.stream.put(0, [0])
        await turn()
        worker.stream.put(1, [0])
        worker.stream.put(0, [1])
        await turn()
        locked = [in_flight.locked() for in_flight in worker.batches._in_flight]
        worker.open.set()
        await turn()

    assert locked.count(True) == 1
    assert [sorted(batch) for batch in worker.handled] == [[(0, 0)], [(0, 1), (1, 0)]]


async def test_what_is_at_work_for_all_lanes_is_not_taken_again_by_its_own() -> None:
    """A partition's records are handled in their order, also when many come after a few."""
    async with Worker(batch_size=48, lanes=2) as worker:
        worker.stream.put(0, [0])
        worker.stream.put(1, [0])
        await turn()
        worker.stream.put(1, range(1, 10))
        await turn()
        at_work = [in_flight.locked() for in_flight in worker.batches._in_flight]
        worker.open.set()
        await turn()

    assert at_work.count(True) == 1
    assert [len(batch) for batch in worker.handled] == [2, 9]


async def test_there_is_room_again_when_a_batch_is_nearly_done() -> None:
    """Else each event that comes under load is a fetch of its own."""
    async with Worker(batch_size=1) as worker:
        worker.stream.put(0, [1])
        await asyncio.sleep(0.8)  # so it usually takes some 0.1 s
        worker.open.set()
        await turn()
        idle = worker.room.is_set()
        worker.open.clear()
        worker.stream.put(0, [2])
        await turn()
        begun = worker.room.is_set()
        await asyncio.sleep(0.2)
        nearly_done = worker.room.is_set()

        assert (idle, begun, nearly_done) == (True, False, True)
        assert len(worker.handled) == 1


async def test_beside_few_records_there_is_no_room_until_they_are_done() -> None:
    """A fetch would take its time from theirs, and bring less than one at their end does."""
    async with Worker(batch_size=48) as worker:
        worker.stream.put(0, range(9))
        await asyncio.sleep(0.8)
        worker.open.set()
        await turn()
        worker.open.clear()
        worker.stream.put(0, range(9, 18))
        await turn()
        await asyncio.sleep(0.2)  # longer than nearly all of the usual 0.1 s
        beside = worker.room.is_set()
        worker.open.set()
        await turn()
        done = worker.room.is_set()

        assert (beside, done) == (False, True)
        assert len(worker.handled) == 2


async def test_a_rebalance_makes_room() -> None:
    """What waited is dropped: its partitions may come back, and are fetched from again."""
    async with Worker(batch_size=1) as worker:
        worker.stream.put(0, [1])
        await turn()
        worker.stream.put(0, [2])
        await turn()
        waits = worker.room.is_set()
        settling = asyncio.create_task(worker.batches.settle())
        worker.open.set()
        await settling
        await turn()

        assert not waits
        assert worker.room.is_set()


async def test_what_was_fetched_under_an_older_generation_is_dropped() -> None:
    """Its partition may be another worker's by now; if not, it is fetched again."""
    async with Worker() as worker:
        worker.stream.put(0, [3])
        await turn()
        worker.stream.put(0, [4])
        worker.stream.put(0, [1, 2], generation=GENERATION - 1)
        await turn()
        worker.open.set()
        await turn()

    assert worker.handled == [[(0, 3)], [(0, 4)]]


async def test_what_waits_when_the_generation_changes_is_dropped() -> None:
    """It waits behind a slow batch, and its partition moves on meanwhile."""
    async with Worker(batch_size=1) as worker:
        worker.stream.put(0, [1, 2, 3])
        await turn()
        worker.app.consumer_generation_id += 1
        worker.open.set()
        await turn()
        worker.stream.put(0, [9], generation=GENERATION + 1)
        await turn()

    assert worker.handled == [[(0, 1)], [(0, 9)]]


async def test_settling_lets_the_batch_at_work_be_committed_and_drops_the_rest() -> None:
    """A graceful end repeats nothing, and starts nothing."""
    async with Worker(batch_size=1) as worker:
        worker.stream.put(0, [1, 2])
        await turn()
        settling = asyncio.create_task(worker.batches.settle())
        await turn()
        worker.open.set()
        await settling

    assert worker.handled == [[(0, 1)]]
    assert worker.consumer.committed == {TP("events", 0): 2}


@asynccontextmanager
async def refused(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Worker]:
    """A worker that has handled a record, whose commits are refused."""
    monkeypatch.setattr("stream.consume.COMMIT_EVERY_S", 0)
    async with Worker() as worker:
        worker.open.set()
        worker.consumer.refusing = True
        worker.stream.put(0, [1])
        await turn()
        assert worker.handled == [[(0, 1)]]
        assert worker.consumer.committed == {}
        yield worker


async def test_a_commit_that_does_not_go_through_is_tried_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Faust forgets it."""
    async with refused(monkeypatch) as worker:
        worker.consumer.refusing = False
        await turn()

    assert worker.consumer.committed == {TP("events", 0): 2}


async def test_a_commit_that_fails_as_partitions_go_is_not_tried_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It would fail once the group has been joined anew, and end that membership as well."""
    async with refused(monkeypatch) as worker:
        await worker.batches.settle()
        worker.consumer.refusing = False
        await turn()

    assert worker.handled == [[(0, 1)]]
    assert worker.consumer.committed == {}


async def test_what_gathers_while_nothing_is_fetched_is_in_the_next_batch():
    """Whoever took only what had come before would leave the rest to the batch after it."""
    async with Worker(every_s=0.2) as worker:
        worker.consumer.gathered = lambda: worker.stream.put(0, [2, 3])
        worker.stream.put(0, [0])
        await turn()
        assert worker.consumer.held == {"events"}, "nothing is fetched while a batch is at work"
        worker.stream.put(0, [1])  # but for the fetch that was under way
        began_s = perf_counter()
        worker.open.set()
        async with asyncio.timeout(5):
            await worker.done.acquire()
            await worker.done.acquire()
    assert worker.handled == [[(0, 0)], [(0, 1), (0, 2), (0, 3)]]
    assert perf_counter() - began_s > 0.15, "a start of a batch is 0.2 s from that of the next"


async def test_a_full_batch_waits_for_no_moment():
    async with Worker(every_s=60) as worker:
        worker.open.set()
        worker.stream.put(0, range(6))
        async with asyncio.timeout(5):
            await worker.done.acquire()
            await worker.done.acquire()
    assert worker.handled == [[(0, 0), (0, 1), (0, 2), (0, 3)], [(0, 4), (0, 5)]]
