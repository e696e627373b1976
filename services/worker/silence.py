"""
A consumer that hangs, noticed from outside.

After Kafka had died and come back, aiokafka has been seen to wait for minutes, or for ever, while
its process looked alive and kept its partitions from others.
"""

import asyncio
import time
from collections.abc import Callable, Mapping
from typing import NamedTuple

import structlog
from confluent_kafka import KafkaException, TopicPartition
from confluent_kafka.admin import AdminClient, OffsetSpec

from services.kafka.connection import KafkaConnection

log = structlog.get_logger()

ASK_EVERY_S = 5.0
ANSWERS_WITHIN_S = 5.0
SILENT_FOR_S = 60.0  # a rebalance after Kafka has died takes up to half of that
STALLED_FOR_S = 120.0  # longer than a micro-batch may take
GONE_FOR_S = 60.0  # away for less, a partition was in a rebalance and not with another worker

Ends = Mapping[int, int]  # partition to the offset after its newest record


class ConsumerHangs(Exception):
    """The consumer fetches nothing any more. A new process will."""


class _Behind(NamedTuple):
    """A partition with news: where it is, since when, and when it was last one of ours."""

    at: int
    since_s: float
    seen_s: float


class Silence:
    """
    Whether the consumer has come back from Kafka, be it with no news, and goes on where there are
    any, while Kafka answers others.

    Args:
        ends: Of the partitions; asked in a thread. None if Kafka does not answer.
        fetched_s: When the consumer last came back, by *clock*.
        positions: Partition to the offset that the worker reads next, of its own ones.
        clock: Monotonic seconds.
    """

    def __init__(
        self,
        *,
        ends: Callable[[], Ends | None],
        fetched_s: Callable[[], float],
        positions: Callable[[], Mapping[int, int]],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._ends = ends
        self._fetched_s = fetched_s
        self._positions = positions
        self._clock = clock
        self._heard_s = clock()
        self._behind: dict[int, _Behind] = {}  # by partition

    async def listen(self) -> None:
        """Look every few seconds. Raises `ConsumerHangs`."""
        while True:
            await asyncio.sleep(ASK_EVERY_S)
            self.check(await asyncio.to_thread(self._ends))

    def check(self, ends: Ends | None) -> None:
        """Look once. Raises `ConsumerHangs`."""
        now_s = self._clock()
        if ends is None:  # then nobody hears of it
            self._heard_s = now_s
            self._behind.clear()
            return
        self._heard_s = max(self._heard_s, self._fetched_s())
        if (silent_s := now_s - self._heard_s) > SILENT_FOR_S:
            raise ConsumerHangs(f"no fetch has ended for {silent_s:.0f} s while Kafka answers")
        self._look_behind(ends, now_s)
        for partition, (at, since_s, seen_s) in self._behind.items():
            if seen_s == now_s and now_s - since_s > STALLED_FOR_S:
                raise ConsumerHangs(
                    f"partition {partition} has been at {at} for {now_s - since_s:.0f} s, and ends "
                    f"at {ends[partition]}"
                )

    def _look_behind(self, ends: Ends, now_s: float) -> None:
        mine = self._positions()
        # A group that rebalances without end takes partitions away and gives them back unmoved.
        kept = {
            p: known
            for p, known in self._behind.items()
            if p not in mine and now_s - known.seen_s <= GONE_FOR_S
        }
        for p, at in mine.items():
            if at < ends.get(p, 0):
                known = self._behind.get(p)
                since_s = known.since_s if known and known.at == at else now_s
                kept[p] = _Behind(at, since_s, now_s)
        self._behind = kept


def ends_of(kafka: KafkaConnection, topic: str, partitions: int) -> Callable[[], Ends | None]:
    """
    Asks for the ends of *topic* (its full name), apart from any consumer; blocks.

    A refusal is logged when it is not the last one again: a missing right would switch the watch
    off for good. After one the client is made anew: it would ask by the leaders of before Kafka's
    restart for a minute and more, and be refused as fenced.
    """
    config = {**kafka.config(), "log_level": 0}
    latest: OffsetSpec = OffsetSpec.latest()  # type: ignore[no-untyped-call]
    wanted = {TopicPartition(topic, p): latest for p in range(partitions)}
    admin: AdminClient | None = None
    refused = ""

    def ask() -> Ends | None:
        nonlocal admin, refused
        try:
            admin = admin or AdminClient(config)
            found = admin.list_offsets(wanted, request_timeout=ANSWERS_WITHIN_S)
            ends = {place.partition: one.result().offset for place, one in found.items()}
        except KafkaException as error:
            admin = None
            if (reason := error.args[0].name()) != refused:
                log.warning("consumer_not_watched", topic=topic, reason=reason)
                refused = reason
            return None
        refused = ""
        return ends

    return ask
