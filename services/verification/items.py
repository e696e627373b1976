"""Items' rows against signals.v1: folded in the log's own order, up to each row's end."""

import math
import struct
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from operator import itemgetter

import numpy as np

from services.verification.report import Report
from stream.item_row import ItemRow, UnknownItemFormat
from stream.records import Record
from stream.signals import DELTA, Deltas, Kind, from_bytes

TOLERANCE = 1e-6  # relative, or absolute where a figure is below 1
ReadRows = Callable[[Sequence[int]], Sequence[bytes | None]]


@dataclass(slots=True)
class _Item:
    """
    Attributes:
        row: What the log has made of it so far.
        stored: Its row as it is kept; None when it has been compared, or cannot be.
        told: Whether a difference has been noted already.
    """

    row: ItemRow
    stored: ItemRow | None
    told: bool = False


@dataclass
class ItemsCheck:
    """
    Compares the items of one partition of signals.v1 while its records pass by, oldest first.

    Args:
        read: Reads item rows. It must see what the mark saw, or newer.
        partition: Of signals.v1.
        settled: The partition's mark, read before any row: records before it are in the rows.
        report: Takes counts and differences.
    """

    read: ReadRows
    partition: int
    settled: int
    report: Report
    _items: dict[int, _Item] = field(default_factory=dict)
    _waiting: int = 0

    @property
    def waiting(self) -> int:
        """How many rows are newer than what has been folded so far."""
        return self._waiting

    def take(self, records: Sequence[Record], *, meet: bool = True) -> Deltas:
        """
        Fold records of the partition, in order.

        Args:
            meet: Whether items not named before are to be compared too.

        Returns:
            Those of their deltas that are no repeats, by the rule of the items' owner.
        """
        said = [(record.offset, from_bytes(record.value or b"")) for record in records]
        if meet:
            self._meet([deltas for _, deltas in said])
        return np.concatenate([self._fold(deltas, offset) for offset, deltas in said])

    def _fold(self, deltas: Deltas, offset: int) -> Deltas:
        news: list[tuple[int, ...]] = []
        touched: dict[int, _Item] = {}
        for (key, *_), group in groupby(deltas.tolist(), key=itemgetter(0, 1, 2)):
            item, said = self._items.get(key), list(group)
            # All of one record: it does not matter that the key stands where its number would.
            if item is not None and item.row.fold(said):
                item.row.partition, item.row.offset = self.partition, offset
                touched[key] = item
                news += said
        for key, item in touched.items():
            self._compare_if_due(key, item, offset)
        self.report.count("signals folded", len(news))
        return np.array(news, DELTA)

    def finish(self) -> None:
        """Note the rows whose newest record the log does not have."""
        for key, item in self._items.items():
            if item.stored is not None:
                self.report.differ(
                    "item row", f"item key {key}", "applied", item.stored.applied, "not in the log"
                )

    def _meet(self, said: Sequence[Deltas]) -> None:
        named: list[int] = np.unique(np.concatenate([one["item_key"] for one in said])).tolist()
        strangers = [key for key in named if key not in self._items]
        for key, raw in zip(strangers, self.read(strangers) if strangers else (), strict=True):
            item = _Item(ItemRow(), None)
            try:
                item.stored = None if raw is None else ItemRow.from_bytes(raw)
            except (UnknownItemFormat, ValueError, IndexError, struct.error) as error:
                self._differ(key, item, "all of it", error, "a row")
            self._items[key] = item
            self._waiting += item.stored is not None

    def _compare_if_due(self, key: int, item: _Item, offset: int) -> None:
        if item.stored is None:
            if offset < self.settled and not item.told:
                self._differ(key, item, f"record {self.partition}:{offset}", "not in it", "folded")
        elif item.stored.offset == offset:
            for where, was, should in row_differences(item.stored, item.row):
                self._differ(key, item, where, was, should)
            self.report.count("item rows compared")
            item.stored = None
            self._waiting -= 1

    def _differ(self, key: int, item: _Item, where: str, stored: object, folded: object) -> None:
        item.told = True
        self.report.differ("item row", f"item key {key}", where, stored, folded)


def row_differences(stored: ItemRow, folded: ItemRow) -> Iterator[tuple[str, object, object]]:
    """Where two rows of an item differ by more than rounding: the part, and what each has there."""
    if stored.to_bytes() == folded.to_bytes():
        return
    for name in ("partition", "as_of_ms", "sources"):
        if (was := getattr(stored, name)) != (should := getattr(folded, name)):
            yield name, was, should
    counts, folded_counts = stored.counts(), folded.counts()
    for event_type in sorted(counts.keys() | folded_counts.keys()):
        had, has = counts.get(event_type), folded_counts.get(event_type)
        if had is None or has is None or not _alike(had, has):
            yield f"count of {event_type.name.lower()}", had, has
    for kind in (Kind.CO_VISITED, Kind.BOUGHT_TOGETHER):
        known, others = _by_key(stored, kind), _by_key(folded, kind)
        for other in sorted(known.keys() | others.keys()):
            one, two = known.get(other), others.get(other)
            if one is None or two is None or not _alike(one, two):
                yield f"{kind.name.lower()} neighbour {other}", one, two


def _by_key(row: ItemRow, kind: Kind) -> dict[int, tuple[float, float]]:
    return {one.item_key: (one.weight, one.error) for one in row.neighbours(kind)}


def _alike(one: Sequence[float], two: Sequence[float]) -> bool:
    return all(
        math.isclose(a, b, rel_tol=TOLERANCE, abs_tol=TOLERANCE)
        for a, b in zip(one, two, strict=True)
    )
