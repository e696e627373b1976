"""
A user's row: bounded lists of what they did, folded event by event and stored packed.

Everything else about a user is derived from the row. The lists do not evict each other, so a
thousand impressions never push out a purchase.
"""

import math
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from typing import NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from stream.context import pack_context, price_buckets
from stream.event_types import EventType
from stream.events import Context, Event
from stream.keys import NO_ORDER, PADDING_KEY, event_key, item_key, order_key
from stream.packed import place_of, struct_of
from stream.ranking import RankerInput, RankerInputs

ENTRY = np.dtype(
    [
        ("timestamp_ms", "<i8"),  # event time
        ("offset", "<i8"),  # of the record in its partition: breaks ties of event time
        ("event_key", "<u8"),
        ("item_key", "<i8"),  # 0 for a search
        ("price", "<f4"),  # NaN when the event had none
        ("context", "<i4"),  # see `stream.context.pack`
        ("order_key", "<u4"),  # see `stream.keys.order_key`; 0 when the event had no order_id
        ("event_type", "u1"),
    ]
)
Entries = NDArray[np.void]


class Entry(NamedTuple):
    """What is kept of an event: the fields of `ENTRY`."""

    timestamp_ms: int
    offset: int
    event_key: int
    item_key: int
    price: float
    context: int
    order_key: int
    event_type: int


def entry_struct(*names: str) -> struct.Struct:
    """
    Those fields of one packed `ENTRY`, in their order there; it steps over the others.

    Of a few entries, `struct` reads and writes a field many times as fast as numpy.
    """
    return struct_of(ENTRY, *names)


# Which list an event goes to, and how much each list holds.
# Searches are apart from interactions: the newest 128 actions on items are then always there,
# whatever else came between them, and training can tell what they were at any moment.
LIMITS = {
    "interactions": 128,
    "purchases": 256,
    "dislikes": 256,
    "impressions": 256,
    "searches": 64,
}
LIST_OF: Mapping[int, str] = {
    EventType.IMPRESSION: "impressions",
    EventType.SEARCH: "searches",
    EventType.PURCHASE: "purchases",
    EventType.REFUND: "purchases",
    EventType.DISLIKE: "dislikes",
}
FORMAT = 3


class Outcome(IntEnum):
    """What became of one record. Together they account for every record of a partition."""

    FOLDED = 0
    DUPLICATE = 1
    LATE = 2
    REKEYED = 3
    DEAD_LETTERED = 4


class UnknownRowFormat(Exception):
    """A row that this version cannot read. Upgrade the worker, or rebuild the state."""


_OUTCOMES = tuple(Outcome)  # by their codes
_ENTRY_BYTES = ENTRY.itemsize
_PACKED_ENTRY = entry_struct(*ENTRY.names or ())
_ORDER = entry_struct("timestamp_ms", "offset")
_KEY = struct.Struct("<Q")  # an event key, as it lies in an entry
_KEY_AT = dict(ENTRY.fields or {})["event_key"][1]
_BOUGHT = entry_struct("item_key", "event_type")
_PURCHASE = int(EventType.PURCHASE)
# One record's outcome as the row remembers it until the partition's mark has passed it.
_TALLY = struct.Struct("<qB")  # offset, outcome

# Format, partition, offset; each list's length; each list's `evicted_ms`; length of the tally.
_HEADER = struct.Struct(f"<Hiq{len(LIMITS)}H{len(LIMITS)}qH")
_NEVER = np.iinfo(np.int64).min
_NO_CONTEXT = Context()


@dataclass(slots=True)
class UserRow:
    """
    One user's state, which changes in place: several events of a micro-batch may be of one user.

    Attributes:
        packed: Name of the list to its entries, oldest first by (event time, offset), as they are
            stored: `ENTRY` after `ENTRY`.
        evicted_ms: Name of the list to the event time of the newest entry it has evicted. An
            event no newer than that cannot be told from a duplicate of an evicted one.
        partition, offset: The newest record folded in (``applied``); offset -1 for a new row.
        tally: Outcomes of the records that the last write of this row folded. Should the worker
            die before the partition's mark is written, the repeat counts them from here.
    """

    packed: dict[str, bytes] = field(default_factory=lambda: dict.fromkeys(LIMITS, b""))
    evicted_ms: dict[str, int] = field(default_factory=lambda: dict.fromkeys(LIMITS, _NEVER))
    partition: int = -1
    offset: int = -1
    tally: list[tuple[int, Outcome]] = field(default_factory=list)

    def verdict(self, entry: Entry) -> Outcome:
        """What becomes of an event that is newer than the row's own ``offset``."""
        name = list_of(entry.event_type)
        entries = self.packed[name]
        full = len(entries) == LIMITS[name] * _ENTRY_BYTES
        return verdict(
            known=_holds(self.packed, entry.event_key),
            full=full,
            timestamp_ms=entry.timestamp_ms,
            oldest_ms=_ORDER.unpack_from(entries)[0] if full else _NEVER,
            evicted_ms=self.evicted_ms[name],
        )

    def take(self, entry: Entry, outcome: Outcome, *, partition: int) -> None:
        """Take in an event of *partition*, of which *outcome* is the verdict."""
        self.partition, self.offset = partition, entry.offset
        self.tally.append((entry.offset, outcome))
        if outcome is Outcome.FOLDED:
            name = list_of(entry.event_type)
            entries = _insert(self.packed[name], entry)
            if len(entries) > LIMITS[name] * _ENTRY_BYTES:
                self.evicted_ms[name], _ = _ORDER.unpack_from(entries)
                entries = entries[_ENTRY_BYTES:]
            self.packed[name] = entries

    def outcome_of(self, offset: int) -> Outcome | None:
        """What became of the record at *offset*, if the last write of this row folded it."""
        return dict(self.tally).get(offset)

    def settle(self, first_unmarked: int) -> None:
        """Forget the outcomes of records that the partition's mark has passed."""
        self.tally = [one for one in self.tally if one[0] >= first_unmarked]

    @property
    def lists(self) -> Mapping[str, Entries]:
        """Name of the list to its `entries`."""
        return {name: self.entries(name) for name in self.packed}

    def entries(self, name: str) -> Entries:
        """The list *name* ``(n,)``, oldest first, to read many of at once."""
        return np.frombuffer(self.packed[name], ENTRY)

    @property
    def applied(self) -> str:
        """What a compare-and-set expects of the stored row; empty for one that is not stored."""
        return f"{self.partition}:{self.offset}" if self.offset >= 0 else ""

    @property
    def as_of_ms(self) -> int:
        """Event time of the newest event folded in, epoch ms."""
        newest = [
            _ORDER.unpack_from(entries, len(entries) - _ENTRY_BYTES)[0]
            for entries in self.packed.values()
            if entries
        ]
        return max(newest, default=0)

    def bought(self) -> set[int]:
        """Keys of items bought and not refunded since."""
        last = dict(_BOUGHT.iter_unpack(self.packed["purchases"]))  # by item key
        return {key for key, event_type in last.items() if event_type == _PURCHASE}

    def ranker_input(self, length: int) -> RankerInput:
        """As `ranker_inputs`, of this row alone."""
        return ranker_inputs([self], length)[0]

    def to_bytes(self) -> bytes:
        """Pack the row: a header, the lists and the tally."""
        lists = self.packed.values()  # both are in the order of `LIMITS`
        header = _HEADER.pack(
            *(FORMAT, self.partition, self.offset),
            *[len(entries) // _ENTRY_BYTES for entries in lists],
            *self.evicted_ms.values(),
            len(self.tally),
        )
        return b"".join((header, *lists, *[_TALLY.pack(*one) for one in self.tally]))

    @classmethod
    def from_bytes(cls, raw: bytes | None) -> Self:
        """
        Unpack a row; None, an unknown user, is an empty one.

        Raises:
            UnknownRowFormat: If it was written by another format of this software.
        """
        if raw is None:
            return cls()
        if (written := int.from_bytes(raw[:2], "little")) != FORMAT:
            raise UnknownRowFormat(f"row format {written}, this worker reads {FORMAT}")
        _, partition, offset, *sizes, tally_length = _HEADER.unpack_from(raw)
        lengths, evicted_ms = sizes[: len(LIMITS)], sizes[len(LIMITS) :]
        at, packed = _HEADER.size, {}
        for name, length in zip(LIMITS, lengths, strict=True):
            start, at = at, at + length * _ENTRY_BYTES
            packed[name] = raw[start:at]
        tally = _TALLY.iter_unpack(raw[at : at + tally_length * _TALLY.size])
        return cls(
            packed=packed,
            evicted_ms=dict(zip(LIMITS, evicted_ms, strict=True)),
            partition=partition,
            offset=offset,
            tally=[(record, _OUTCOMES[outcome]) for record, outcome in tally],
        )


def ranker_inputs(rows: Sequence[UserRow], length: int) -> RankerInputs:
    """
    Each row's newest *length* actions on items, impressions apart, as the ranker reads them.

    All rows are read as one array: alone, a row costs ten times as much.
    """
    lists = [row.packed[name][-length * _ENTRY_BYTES :] for row in rows for name in _ACTIONS]
    lengths = [len(entries) // _ENTRY_BYTES for entries in lists]
    owners = np.repeat(np.arange(len(lists)) // len(_ACTIONS), lengths)
    actions = np.frombuffer(b"".join(lists), ENTRY)
    order = _oldest_first(actions, owners)
    times_ms = actions["timestamp_ms"][order]
    lengths_of_rows = np.bincount(owners, minlength=len(rows))
    newest_ms = times_ms[lengths_of_rows.cumsum()[owners] - 1]
    found = RankerInput(
        item_keys=actions["item_key"][order],
        event_types=actions["event_type"][order].astype(np.int32),
        ages_s=((newest_ms - times_ms) / 1000).astype(np.float32),
        price_buckets=price_buckets(actions["price"][order]),
        context=actions["context"][order],
    )
    return RankerInputs(found, lengths_of_rows).newest(length)


def _oldest_first(actions: Entries, owners: NDArray[np.int64]) -> NDArray[np.int64]:
    """Places of *actions* ``(n,)`` by owner, event time and offset; lists are in order already."""
    times_ms, offsets = actions["timestamp_ms"], actions["offset"]
    since_ms = times_ms - times_ms.min(initial=0)
    by_time = owners * (since_ms.max(initial=0) + 1) + since_ms
    order = np.argsort(by_time, kind="stable")  # merges lists in a twentieth of what lexsort takes
    tied = (np.diff(by_time[order]) == 0) & (np.diff(offsets[order]) < 0)
    if tied.any():  # actions of one moment in two lists: sort those owners' by offset as well
        theirs = np.isin(owners[order], owners[order[:-1][tied]])
        some = order[theirs]
        order[theirs] = some[np.lexsort((offsets[some], by_time[some]))]
    return order


_ACTIONS = ("interactions", "purchases", "dislikes")


def verdict(
    *, known: bool, full: bool, timestamp_ms: int, oldest_ms: int, evicted_ms: int
) -> Outcome:
    """
    What becomes of an event: the one rule of what a list takes in.

    Args:
        known: Whether the row holds an event of this id, in any list.
        full: Whether the event's list is.
        oldest_ms: Event time of the list's oldest entry, if it has one.
        evicted_ms: Event time of the newest entry that the list has evicted.
    """
    if known:
        return Outcome.DUPLICATE
    if (full and timestamp_ms < oldest_ms) or timestamp_ms <= evicted_ms:
        return Outcome.LATE
    return Outcome.FOLDED


def list_of(event_type: int) -> str:
    """The list that an event of that type goes to."""
    return LIST_OF.get(event_type, "interactions")


def _holds(packed: Mapping[str, bytes], event_key: int) -> bool:
    entries, wanted = b"".join(packed.values()), _KEY.pack(event_key)
    return place_of(wanted, entries, width=_ENTRY_BYTES, at=_KEY_AT) >= 0


def _insert(entries: bytes, entry: Entry) -> bytes:
    # Events arrive nearly in order, so the place is nearly always the end.
    at = len(entries)
    while at and _ORDER.unpack_from(entries, at - _ENTRY_BYTES) > entry[:2]:
        at -= _ENTRY_BYTES
    return b"".join((entries[:at], _PACKED_ENTRY.pack(*entry), entries[at:]))


def entry_of(event: Event, offset: int) -> Entry:
    """What is kept of an *event* at *offset* of its partition."""
    where = event.context or _NO_CONTEXT
    kind, at_ms = event.kind, event.timestamp_ms
    item = event.item_id if kind != EventType.SEARCH else None
    return Entry(
        timestamp_ms=at_ms,
        offset=offset,
        event_key=event_key(event.event_id),
        item_key=item_key(item) if item else PADDING_KEY,
        price=math.nan if event.price is None else event.price,
        context=pack_context(where.page, where.device, where.country, at_ms),
        order_key=order_key(event.order_id) if event.order_id else NO_ORDER,
        event_type=kind,
    )
