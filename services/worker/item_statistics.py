"""The worker's side of item statistics: their pace, what is trending, and where both are kept."""

import asyncio
from collections.abc import Callable, Sequence

import structlog

from features.store import AsyncRows, FeatureRows, StoreError
from services.kafka.connection import KafkaConnection
from services.kafka.log_id import log_id
from stream import topics
from stream.item_statistics import ItemStatistics
from stream.marks import OwnMarks
from stream.trending import best_overall

log = structlog.get_logger()

BATCH = 512  # records of signals.v1, each of what a whole micro-batch of events says
WRITE_EVERY_S = 0.5  # an item touched often is then written seldom
REFRESH_EVERY_S = 1.0


class ItemViews:
    """
    The item views of a state.

    Args:
        users: Users' rows of the same state, whose connections are shared.
    """

    def __init__(self, users: FeatureRows[str]) -> None:
        self._items = AsyncRows(users.beside(rows="item_row", marks="signals_mark"))
        self._trending = AsyncRows(users.beside(rows="trending", marks="signals_mark"))

    async def read(self, item_keys: Sequence[int]) -> list[bytes | None]:
        """`stream.pipeline.ReadItems`."""
        rows, _ = await self._items.read(item_keys, [])
        return rows

    async def read_trending(self) -> list[int]:
        """Item keys of what is trending on all partitions, best first."""
        lists, _ = await self._trending.read(range(topics.SIGNAL_PARTITIONS), [])
        return best_overall(lists)

    def owner(
        self,
        kafka: KafkaConnection,
        topic: str,
        *,
        category_of: Callable[[int], str | None],
        in_memory: int,
    ) -> ItemStatistics:
        """Who keeps the items on this worker's partitions of *topic*, `signals.v1` in full."""
        return ItemStatistics(
            self._items,
            self._trending,
            OwnMarks(log_id(kafka, topic)),
            category_of=category_of,
            in_memory=in_memory,
        )


class TrendingFeed:
    """What is trending, as read from the feature store about every second."""

    def __init__(self, views: ItemViews) -> None:
        self._views = views
        self._keys: list[int] = []

    def current(self) -> list[int]:
        """Item keys, best first."""
        return self._keys

    async def keep(self) -> None:
        """Read again and again; until the store answers, the last that was read is kept."""
        while True:
            try:
                self._keys = await self._views.read_trending()
            except StoreError as error:
                log.warning("trending_not_read", reason=f"{type(error).__name__}: {error}")
            await asyncio.sleep(REFRESH_EVERY_S)
