"""
The owner of items: takes in `signals.v1` and keeps the rows of the items on its partitions.

What has arrived is folded into rows in memory; the rows it touched are replaced, then the
trending lists, then the marks. Whatever is killed, a repeat finds in each row how far it has come.
Each write depends on the one before it: if the store has lost that one, nothing more is written.

Slates are made on the same thread and wait for the same Redis, and they are in a hurry: statistics
are made in short turns, with rests between them, and written a part at a time.
"""

import asyncio
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from time import perf_counter
from typing import Protocol

import numpy as np

from stream.history import Outcome
from stream.item_row import ItemRow, by_item
from stream.marks import Mark, OwnMarks, require_no_older, take_over
from stream.records import Record
from stream.signals import Deltas, from_bytes
from stream.state import Dependencies, Replacement
from stream.trending import Trending

WRITTEN_AT_ONCE = 128  # rows: Redis does nothing else for a millisecond
TURN_S = 0.001  # of work, and then
REST_S = 0.006
RESTING_WITHIN_S = 0.3  # of a batch's start


class ItemStore(Protocol):
    """Rows by an int64 key, and the marks of `signals.v1`; see `stream.pipeline.RowStore`."""

    async def read(
        self, keys: Sequence[int], partitions: Sequence[int], /
    ) -> tuple[list[bytes | None], list[bytes | None]]: ...

    async def write_rows(
        self,
        rows: Mapping[int, Replacement],
        expected_marks: Mapping[int, str],
        after: Dependencies,
        /,
    ) -> Dependencies: ...

    async def write_marks(
        self, marks: Mapping[int, Replacement], after: Dependencies, /
    ) -> Dependencies: ...


class ItemStatistics:
    """
    Keeps the items on the partitions of `signals.v1` that this worker owns.

    Args:
        items: Items' rows.
        trending: Trending lists, by partition.
        marks: How far each partition is settled.
        category_of: Of an item, by its key; None if it has none.
        in_memory: Items kept between batches; others are read again when they are touched.
    """

    def __init__(
        self,
        items: ItemStore,
        trending: ItemStore,
        marks: OwnMarks,
        *,
        category_of: Callable[[int], str | None],
        in_memory: int,
    ) -> None:
        self._items = items
        self._trending = trending
        self._marks = marks
        self._category_of = category_of
        self._in_memory = in_memory
        # As they are stored, but while a batch is at work. The item touched last is the last.
        self._rows: OrderedDict[int, ItemRow] = OrderedDict()
        self._lists: dict[int, Trending] = {}  # by partition, as they are stored

    async def take_over(self, partitions: Sequence[int]) -> Mapping[int, int]:
        """
        Begin with *partitions*, just assigned; what is in memory of others is forgotten.

        Returns:
            Partition to the next offset to read.
        """
        self._rows.clear()
        begins = await take_over(self._items, self._marks, partitions)
        lists, _ = await self._trending.read(partitions, [])
        self._lists = {
            partition: Trending.from_bytes(raw)
            for partition, raw in zip(partitions, lists, strict=True)
        }
        return begins

    async def keep(self, records: Sequence[Record]) -> Mapping[int, int]:
        """
        Take in a batch of `signals.v1`.

        Args:
            records: In offset order for each partition.

        Returns:
            Partition to the offset that may be committed now. When this raises, nothing may be.

        Raises:
            StateMoved: If another worker has taken over, or the store has come back older.
        """
        said = [from_bytes(record.value or b"") for record in records]
        marks = await self._load(
            np.unique(np.concatenate(said)["item_key"]).tolist(),
            sorted({record.partition for record in records}),
        )
        news, written = await self._fold(records, said, self._marks.expected(marks))
        for place, record in enumerate(records):
            outcome = Outcome.FOLDED if place in news else Outcome.DUPLICATE
            marks[record.partition].settle(record.offset, outcome)
        written = await self._write_lists(marks, written)
        await self._items.write_marks(self._marks.replacements(marks), written)
        self._marks.wrote(marks)
        self._forget()
        return {partition: mark.next_offset for partition, mark in marks.items()}

    async def require_no_older(self) -> None:
        """As `stream.marks.require_no_older`, of the partitions that this worker owns."""
        await require_no_older(self._items, self._marks)

    async def _load(self, keys: Sequence[int], partitions: Sequence[int]) -> dict[int, Mark]:
        """Read what is not in memory of the items *keys*, and the marks of *partitions*."""
        missing = [key for key in keys if key not in self._rows]
        rows, marks = await self._items.read(missing, partitions)
        self._rows.update(zip(missing, map(ItemRow.from_bytes, rows), strict=True))
        for key in keys:
            self._rows.move_to_end(key)
        return self._marks.check(dict(zip(partitions, marks, strict=True)))

    async def _fold(
        self, records: Sequence[Record], said: Sequence[Deltas], expected_marks: Mapping[int, str]
    ) -> tuple[set[int], Dependencies]:
        """Fold, list and replace one item after the other; which *records* were news."""
        turns, news = _Turns(), set[int]()
        written: Dependencies = ()
        touched: dict[int, Replacement] = {}
        for heard in by_item(said):
            row = self._rows[heard.item_key]
            stored = row.applied
            news |= heard.fold_into(row, records)
            # Even if it is no news: a row that is owed to an earlier attempt is compared, too.
            touched[heard.item_key] = Replacement(row.to_bytes(), stored, row.applied)
            if heard.counts:  # even if it is no news: a crash may have come before the lists
                self._list(heard.item_key, row)
            if len(touched) == WRITTEN_AT_ONCE:
                written = await self._items.write_rows(touched, expected_marks, written)
                touched = {}
            await turns.rest()
        return news, await self._items.write_rows(touched, expected_marks, written)

    def _list(self, key: int, row: ItemRow) -> None:
        """Place an item in the trending lists of its partition."""
        self._lists[row.partition].put(key, row.log_interest(), self._category_of(key))

    async def _write_lists(self, marks: Mapping[int, Mark], after: Dependencies) -> Dependencies:
        """Replace the trending lists of the partitions that *marks* are of."""
        replacements = {}
        for partition, mark in marks.items():
            lists = self._lists[partition]
            stored, lists.next_offset = lists.applied, mark.next_offset
            replacements[partition] = Replacement(lists.to_bytes(), stored, lists.applied)
        return await self._trending.write_rows(replacements, self._marks.expected(marks), after)

    def _forget(self) -> None:
        """Keep in memory the items touched last."""
        while len(self._rows) > self._in_memory:
            self._rows.popitem(last=False)


class _Turns:
    """
    Turns of work with rests in between, in which others have the thread.

    Whoever has rested for long only lets others go first: under load rests become longer than they
    are meant to be, and statistics would fall ever further behind.
    """

    def __init__(self) -> None:
        self._began_s = perf_counter()
        self._rested_s = self._began_s + RESTING_WITHIN_S

    async def rest(self) -> None:
        """Rest if this turn has lasted long enough."""
        now_s = perf_counter()
        if now_s - self._began_s > TURN_S:
            await asyncio.sleep(REST_S if now_s < self._rested_s else 0)
            self._began_s = perf_counter()
