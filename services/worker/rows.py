"""The worker's way to Feast: its calls block, so they run in threads."""

import asyncio
from collections.abc import Mapping, Sequence

from features.store import FeatureRows
from stream.state import Replacement


class Rows:
    """`stream.pipeline.RowStore` on Feast, off the event loop."""

    def __init__(self, rows: FeatureRows[str]) -> None:
        self._rows = rows

    async def read(
        self, user_ids: Sequence[str], partitions: Sequence[int]
    ) -> tuple[list[bytes | None], list[bytes | None]]:
        """Rows and marks in one round trip."""
        return await asyncio.to_thread(self._rows.read_with_marks, user_ids, partitions)

    async def write_rows(
        self, rows: Mapping[str, Replacement], expected_marks: Mapping[int, str]
    ) -> None:
        """All rows in one round trip; none if there is nothing to write."""
        if rows:
            await asyncio.to_thread(self._rows.write_rows, rows, expected_marks)

    async def write_marks(self, marks: Mapping[int, Replacement]) -> None:
        """All marks in one round trip."""
        await asyncio.to_thread(self._rows.write_marks, marks)
