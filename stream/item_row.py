"""
An item's row: counts that fade, neighbours, and how far each source of signals is taken in.

Fading is forward decay (Cormode et al., ICDE 2009): an action at time t weighs
``2 ** ((t - landmark) / half_life)``, so nothing need be touched as time passes, order does not
matter, and a delta with the weight and the time of another, negated, takes it back. A landmark is a
whole number of half-lives and moves by whole ones, which changes no digit of what has been summed.

An item's row is written by its owner alone and changes in place: it is folded tens of thousands of
times a second.
"""

import math
import struct
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cache
from itertools import chain, islice
from typing import NamedTuple, Self, TypeVar

import numpy as np

from stream.event_types import EventType
from stream.neighbours import Neighbour, Neighbours
from stream.packed import struct_of
from stream.records import Record
from stream.signals import DELTA, VISITS, Deltas, Kind

HOUR_MS = 3_600_000
HALF_LIVES_MS = (HOUR_MS, 24 * HOUR_MS, 7 * 24 * HOUR_MS)
FORMAT = 1

_DAY, _WEEK = 1, 2  # places in HALF_LIVES_MS
_COUNTED = int(Kind.COUNT)
_RESCALE_AFTER = 65  # half-lives: far from a float's limits
T = TypeVar("T")

_HEADER = struct.Struct("<HiqqqqqHB")
_COUNT = struct.Struct("<B4d")
_SOURCE = struct.Struct("<iq")


@cache
def _head(sources: int, counts: int) -> struct.Struct:
    """The header with so many sources and counts, packed in one call: rows are packed often."""
    fields = [_SOURCE.format[1:]] * sources + [_COUNT.format[1:]] * counts  # without their "<"
    return struct.Struct(_HEADER.format + "".join(fields))


# A delta to one item, as `stream.signals.DELTA` has it; in place of the item's key, which of some
# records says it.
Said = tuple[int, int, int, int, int, int, float, int]
_SAID = np.dtype([("record", "<i8"), *DELTA.descr[1:]])
_EACH_SAID = struct_of(_SAID, *_SAID.names or ())


class UnknownItemFormat(Exception):
    """An item's row that this version cannot read. Upgrade the worker, or rebuild the state."""


class Count(NamedTuple):
    """How often something was done: ever, and with each half-life."""

    ever: float
    hour: float
    day: float
    week: float


@dataclass(slots=True)
class ItemRow:
    """
    One item's statistics.

    Attributes:
        partition, offset: The newest record of `signals.v1` that changed it; -1 for a new row.
        as_of_ms: The newest event time that it has heard of.
        sources: Partition of `events.v1` to the offset of the newest event taken in.
    """

    partition: int = -1
    offset: int = -1
    as_of_ms: int = 0
    sources: dict[int, int] = field(default_factory=dict)
    _landmarks_ms: list[int] = field(default_factory=lambda: [0] * len(HALF_LIVES_MS))
    _rescaled_from_ms: int = field(default=0, compare=False)  # before, no landmark moves
    _counts: dict[int, list[float]] = field(default_factory=dict)  # by event type; see `Count`
    _neighbours: dict[int, Neighbours] = field(
        default_factory=lambda: {Kind.CO_VISITED: Neighbours(), Kind.BOUGHT_TOGETHER: Neighbours()}
    )

    @property
    def applied(self) -> str:
        """What a compare-and-set expects of the stored row; empty for one that is not stored."""
        return f"{self.partition}:{self.offset}" if self.offset >= 0 else ""

    def fold(self, said: Iterable[Said]) -> set[int]:
        """
        Take in what events say of this item, each event once.

        Args:
            said: In the order of the records that say it; in each, what an event says is together.

        Returns:
            Which of the records were news.
        """
        news: set[int] = set()
        event, is_news = (-1, -1, -1), False
        for record, source, at, kind, event_type, other, weight, timestamp_ms in said:
            if (record, source, at) != event:
                event, is_news = (record, source, at), self._is_news(source, at)
                if is_news:
                    news.add(record)
            if is_news:
                if timestamp_ms > self.as_of_ms:
                    self._advance(timestamp_ms)
                if kind == _COUNTED:
                    self._count(event_type, weight, timestamp_ms)
                else:
                    faded = weight * self._growth(_WEEK, timestamp_ms)
                    self._neighbours[kind].add(other, faded)
        return news

    def _is_news(self, source: int, at: int) -> bool:
        """Whether the event at offset *at* of partition *source* is; from now on it is not."""
        if source not in self.sources:
            self.sources = _sorted({**self.sources, source: at})
        elif at > self.sources[source]:
            self.sources[source] = at
        else:
            return False
        return True

    def counts(self) -> dict[EventType, Count]:
        """Counts by event type, as faded at `as_of_ms`."""
        fades = [1.0, *(1 / self._growth(which, self.as_of_ms) for which in range(3))]
        return {
            EventType(event_type): Count(*(n * f for n, f in zip(sums, fades, strict=True)))
            for event_type, sums in self._counts.items()
        }

    def conversion(self) -> float:
        """Purchases that stand for each impression, ever; NaN without any impression."""
        shown, bought = self._counts.get(EventType.IMPRESSION), self._counts.get(EventType.PURCHASE)
        return (bought[0] if bought else 0.0) / shown[0] if shown else math.nan

    def neighbours(self, kind: Kind) -> list[Neighbour]:
        """Neighbours of one kind, as faded at `as_of_ms`; first those surely heaviest."""
        return self._neighbours[kind].best(1 / self._growth(_WEEK, self.as_of_ms))

    def floor(self, kind: Kind) -> float:
        """The most that a neighbour weighs, at `as_of_ms`, that is not listed."""
        return self._neighbours[kind].floor / self._growth(_WEEK, self.as_of_ms)

    def log_interest(self) -> float:
        """
        Base-2 logarithm of the visits, halving by the day, in half-lives since the epoch.

        To whatever moment one fades them, items are in the order of this number.
        """
        visits = sum([sums[1 + _DAY] for kind, sums in self._counts.items() if kind in VISITS])
        if visits <= 0:
            return -math.inf
        return math.log2(visits) + self._landmarks_ms[_DAY] / HALF_LIVES_MS[_DAY]

    def _count(self, event_type: int, weight: float, timestamp_ms: int) -> None:
        if event_type not in self._counts:
            self._counts = _sorted({**self._counts, event_type: [0.0] * len(Count._fields)})
        sums = self._counts[event_type]
        sums[0] += weight
        spans = zip(self._landmarks_ms, HALF_LIVES_MS, strict=True)
        for place, (landmark_ms, half_life_ms) in enumerate(spans, start=1):
            sums[place] += weight * math.exp2((timestamp_ms - landmark_ms) / half_life_ms)

    def _growth(self, which: int, timestamp_ms: int) -> float:
        return math.exp2((timestamp_ms - self._landmarks_ms[which]) / HALF_LIVES_MS[which])

    def _advance(self, timestamp_ms: int) -> None:
        self.as_of_ms = timestamp_ms
        if timestamp_ms < self._rescaled_from_ms:
            return
        for which, half_life_ms in enumerate(HALF_LIVES_MS):
            passed = (timestamp_ms - self._landmarks_ms[which]) // half_life_ms
            if passed >= _RESCALE_AFTER:
                self._rescale(which, passed)
        spans = zip(self._landmarks_ms, HALF_LIVES_MS, strict=True)
        self._rescaled_from_ms = min(start + _RESCALE_AFTER * each for start, each in spans)

    def _rescale(self, which: int, half_lives: int) -> None:
        self._landmarks_ms[which] += half_lives * HALF_LIVES_MS[which]
        for sums in self._counts.values():
            sums[1 + which] = math.ldexp(sums[1 + which], -half_lives)
        if which == _WEEK:
            for neighbours in self._neighbours.values():
                neighbours.scale(half_lives)

    def to_bytes(self) -> bytes:
        """Pack the row. The same deltas in the same order give the same bytes."""
        sources, counts = self.sources, self._counts
        head = _head(len(sources), len(counts)).pack(
            FORMAT,
            self.partition,
            self.offset,
            self.as_of_ms,
            *self._landmarks_ms,
            len(sources),
            len(counts),
            *chain.from_iterable(sources.items()),
            *chain.from_iterable([(kind, *sums) for kind, sums in counts.items()]),
        )
        return b"".join((head, *[found.to_bytes() for found in self._neighbours.values()]))

    @classmethod
    def from_bytes(cls, raw: bytes | None) -> Self:
        """
        Unpack a row; None, an item never heard of, is an empty one.

        Raises:
            UnknownItemFormat: If it was written by another format of this software.
        """
        if raw is None:
            return cls()
        if (written := int.from_bytes(raw[:2], "little")) != FORMAT:
            raise UnknownItemFormat(f"item row format {written}, this worker reads {FORMAT}")
        _, partition, offset, as_of_ms, *landmarks_ms, sources, counts = _HEADER.unpack_from(raw)
        counts_at = _HEADER.size + sources * _SOURCE.size
        co_visited_at = counts_at + counts * _COUNT.size
        co_visited, bought_at = Neighbours.from_bytes(raw, co_visited_at)
        bought, _ = Neighbours.from_bytes(raw, bought_at)
        return cls(
            partition=partition,
            offset=offset,
            as_of_ms=as_of_ms,
            sources=dict(_SOURCE.iter_unpack(raw[_HEADER.size : counts_at])),
            _landmarks_ms=landmarks_ms,
            _counts={k: sums for k, *sums in _COUNT.iter_unpack(raw[counts_at:co_visited_at])},
            _neighbours={Kind.CO_VISITED: co_visited, Kind.BOUGHT_TOGETHER: bought},
        )


@dataclass(slots=True)
class Heard:
    """
    What some records of `signals.v1` say of one item.

    Attributes:
        counts: Whether any of it is a count.
        said: All of it, in the order of the records.
    """

    item_key: int
    counts: bool
    said: Sequence[Said]

    def fold_into(self, row: ItemRow, records: Sequence[Record]) -> set[int]:
        """
        Take all of it into the item's *row*, once.

        Args:
            records: Those that say it.

        Returns:
            Which of the records were news, by their places.
        """
        if news := row.fold(self.said):
            newest = records[max(news)]
            row.partition, row.offset = newest.partition, newest.offset
        return news


def by_item(records: Sequence[Deltas]) -> Iterator[Heard]:
    """
    What *records* of `signals.v1` say, one item after the other.

    An item's row is some sixty pieces of memory that no cache holds. Whoever is done with one
    before going on to the next waits for them once, and not with each event.

    Args:
        records: The deltas of each.
    """
    deltas = np.concatenate(records)
    if not len(deltas):
        return
    order = np.argsort(deltas["item_key"], kind="stable")
    deltas, said = deltas[order], np.empty(len(deltas), _SAID)
    said["record"] = np.repeat(np.arange(len(records)), [len(one) for one in records])[order]
    for name, *_ in DELTA.descr[1:]:
        said[name] = deltas[name]
    keys = deltas["item_key"]
    firsts = np.flatnonzero(np.append(True, keys[1:] != keys[:-1]))
    counts = np.logical_or.reduceat(deltas["kind"] == Kind.COUNT, firsts)
    lengths = np.diff(firsts, append=len(deltas))
    columns = keys[firsts].tolist(), counts.tolist(), lengths.tolist()
    each = _EACH_SAID.iter_unpack(said.tobytes())
    for key, counted, length in zip(*columns, strict=True):
        yield Heard(key, counted, list(islice(each, length)))


def _sorted(by_number: dict[int, T]) -> dict[int, T]:
    """Rows are packed a hundred times as often as a new source or count comes into one."""
    return dict(sorted(by_number.items()))
