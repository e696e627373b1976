"""The worker's way to Feast: its calls block, so they run in threads."""

import asyncio
from collections.abc import Mapping, Sequence
from typing import Generic, TypeVar

from features.store import FeatureRows
from stream.state import Replacement

K = TypeVar("K", str, int)


class Rows(Generic[K]):
    """`RowStore` of users, or `ItemStore` of items, on Feast, off the event loop."""

    def __init__(self, rows: FeatureRows[K]) -> None:
        self._rows: FeatureRows[K] = rows

    async def read(
        self, keys: Sequence[K], partitions: Sequence[int]
    ) -> tuple[list[bytes | None], list[bytes | None]]:
        """Rows and marks in one round trip."""
        return await asyncio.to_thread(self._rows.read_with_marks, keys, partitions)

    async def write_rows(
        self, rows: Mapping[K, Replacement], expected_marks: Mapping[int, str]
    ) -> None:
        """All rows in one round trip; none if there is nothing to write."""
        if rows:
            await asyncio.to_thread(self._rows.write_rows, rows, expected_marks)

    async def write_marks(self, marks: Mapping[int, Replacement]) -> None:
        """All marks in one round trip."""
        await asyncio.to_thread(self._rows.write_marks, marks)
