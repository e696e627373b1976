"""
Micro-batches from a Faust stream: what has arrived is taken, handled, then committed, in order.

Offsets are committed here and Faust's own acknowledging is left unused: it computes what to commit
from a list of gaps that, once two one-record gaps lie side by side, covers records still at work
(`faust.transport.consumer._new_offset`), and it drops a commit that did not go through.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

import faust
import structlog
from faust.types import TP, EventT, StreamT

from stream.records import Record

log = structlog.get_logger()

Handle = Callable[[Sequence[Record]], Awaitable[Mapping[int, int]]]


class MicroBatches:
    """
    Feeds one handler, one micro-batch at a time; while one is in flight the next one gathers.

    Args:
        app: Whose consumer commits.
        topic: The topic's full name.
        handle: Takes records in offset order for each partition, and returns the offset to commit
            for each partition. What it raises stops the worker, and nothing is committed.
        batch_size: Most records in a micro-batch.
        on_ready: Called whenever partitions have been assigned, be it none.
    """

    def __init__(
        self,
        app: faust.App,
        *,
        topic: str,
        handle: Handle,
        batch_size: int,
        on_ready: Callable[[], None] | None = None,
    ) -> None:
        self._app = app
        self._on_ready = on_ready
        self._topic = topic
        self._handle = handle
        self._batch_size = batch_size
        self._arrived: asyncio.Queue[EventT[bytes]] = asyncio.Queue(maxsize=batch_size)
        self._in_flight = asyncio.Lock()
        self._assigned = asyncio.Event()
        self._settled: dict[TP, int] = {}  # the next offset of each partition
        self._uncommitted: dict[TP, int] = {}
        app.on_partitions_assigned.connect(self._on_assigned)
        app.on_partitions_revoked.connect(self._on_revoked)

    async def run(self, records: StreamT[bytes]) -> None:
        """Handle *records* until the stream ends."""
        gathering = asyncio.create_task(self._gather(records))
        handling = asyncio.create_task(self._handle_batches())
        try:
            # Whichever ends first has failed: awaiting it raises its reason.
            done, _ = await asyncio.wait({gathering, handling}, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                await task
        finally:
            gathering.cancel()
            handling.cancel()

    async def settle(self) -> None:
        """Take nothing more, drop what only waits, and let the batch in flight be committed."""
        self._assigned.clear()
        self._settled.clear()
        self._drop_waiting()
        async with self._in_flight:
            await self._commit()

    def lag(self) -> dict[int, int]:
        """Records not settled yet, for each partition that has had any since its assignment."""
        highwater = self._app.consumer.highwater
        return {tp.partition: max(0, highwater(tp) - at) for tp, at in self._settled.items()}

    async def _gather(self, records: StreamT[bytes]) -> None:
        async for event in records.noack().events():  # type: ignore[attr-defined]
            await self._arrived.put(event)

    async def _handle_batches(self) -> None:
        while True:
            events = [await self._arrived.get()]
            await self._assigned.wait()
            # No await from here to the lock: a revocation sees the batch either waiting or at work.
            while len(events) < self._batch_size and not self._arrived.empty():
                events.append(self._arrived.get_nowait())
            # Faust does not take back what an agent holds when its partitions go to another.
            current = [event for event in events if self._is_current(event)]
            if current:
                async with self._in_flight:
                    await self._handle_batch(current)

    async def _handle_batch(self, events: Sequence[EventT[bytes]]) -> None:
        offsets = await self._handle([_record(event) for event in events])
        settled = {TP(self._topic, partition): at for partition, at in offsets.items()}
        self._settled |= settled
        self._uncommitted |= settled
        await self._commit()

    async def _commit(self) -> None:
        # One that does not go through is tried again with the next batch. Should there be none,
        # the records are read again, and the marks tell that they are settled.
        consumer: Any = self._app.consumer
        mine = consumer.assignment()
        self._uncommitted = {tp: at for tp, at in self._uncommitted.items() if tp in mine}
        if self._uncommitted and await consumer._commit_offsets(self._uncommitted):
            self._uncommitted = {}

    def _is_current(self, event: EventT[bytes]) -> bool:
        return event.message.generation_id == self._app.consumer_generation_id

    def _drop_waiting(self) -> None:
        while not self._arrived.empty():
            self._arrived.get_nowait()

    async def _on_assigned(self, app: Any, /, *args: Any, signal: Any, **_: Any) -> None:
        (assigned,) = args
        log.info("partitions_assigned", partitions=sorted(tp.partition for tp in assigned))
        self._assigned.set()
        if self._on_ready is not None:
            self._on_ready()

    async def _on_revoked(self, app: Any, /, *args: Any, signal: Any, **_: Any) -> None:
        (revoked,) = args
        await self.settle()
        log.info("partitions_revoked", partitions=sorted(tp.partition for tp in revoked))


def _record(event: EventT[bytes]) -> Record:
    message = event.message
    headers: Any = message.headers or ()  # pairs; a mapping with some transports
    return Record(
        partition=message.partition,
        offset=message.offset,
        timestamp_ms=round(message.timestamp * 1000),
        key=message.key,
        value=message.value,
        headers=tuple(headers.items() if isinstance(headers, dict) else headers),
    )
