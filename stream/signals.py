"""
What an event says of items, and how that travels on `signals.v1` to whoever owns the items.

One event of a user touches several items: it counts for its own, it makes that item a neighbour of
those visited before it, and a refund takes back what its purchase said. Each such piece is a
*delta* to one item's row. Deltas are computed from the user's row as it was just before the event,
so a repeat after a crash computes the same ones. Each names the record that it comes from, so their
owner takes them in once however often they arrive: an item's row remembers the newest source offset
it has of each source partition. That holds because all deltas of one (item, source record) travel
in one record, and because deltas of several events are never merged: a repeat may cut its batches
elsewhere.
"""

from collections import defaultdict
from collections.abc import Iterator
from enum import IntEnum
from itertools import starmap
from operator import itemgetter

import numpy as np
from numpy.typing import NDArray

from stream import topics
from stream.event_types import EventType
from stream.history import Entries, Entry, UserRow, entry_struct
from stream.keys import NO_ORDER, PADDING_KEY
from stream.packed import struct_of
from stream.records import Outgoing


class Kind(IntEnum):
    """What a delta changes."""

    COUNT = 1  # actions on the item, by event type
    CO_VISITED = 2  # the item's neighbours: what was visited after it
    BOUGHT_TOGETHER = 3  # the item's neighbours: what was bought in the same order


# One change to one item's row.
DELTA = np.dtype(
    [
        ("item_key", "<i8"),
        ("source_partition", "<i4"),  # of events.v1
        ("source_offset", "<i8"),
        ("kind", "u1"),  # see `Kind`
        ("event_type", "u1"),  # what is counted; 0 if the delta is about a neighbour
        ("other_key", "<i8"),  # the neighbour; 0 for a count
        ("weight", "<f4"),  # negative: it takes back what an earlier delta said
        ("timestamp_ms", "<i8"),  # event time, from which the weight decays
    ]
)
Deltas = NDArray[np.void]
NO_DELTAS = b""

SESSION_GAP_MS = 30 * 60 * 1000
# The first lines of an order make pairs, later ones none. So an event gives at most 133 deltas, and
# those of the largest micro-batch fit into a record.
ORDER_LINES = 64
NEIGHBOURS_BEFORE = 5  # distinct items of the session that a visit is made a neighbour of
VISITS = frozenset(
    {
        EventType.VIEW,
        EventType.CLICK,
        EventType.ADD_TO_CART,
        EventType.WISHLIST,
        EventType.CHECKOUT,
        EventType.PURCHASE,
    }
)
# What takes back what, and the list of the row in which both are.
UNDOES = {
    EventType.REFUND: (EventType.PURCHASE, "purchases"),
    EventType.REMOVE_FROM_CART: (EventType.ADD_TO_CART, "interactions"),
}
_FOREVER = int(np.iinfo(np.int64).max)
_LOOK_BACK = 24  # newest entries in which the session's last items are looked for

FORMAT = 1
_HEADER = np.dtype("<u2")


class UnknownSignalsFormat(Exception):
    """A record of signals that this version cannot read. Upgrade the worker."""


def signals_of(row: UserRow, entry: Entry, *, partition: int) -> bytes:
    """
    What an event that is folded next says of items.

    Args:
        row: The user's row just before the event.
        entry: The event, newer than any that the row has.
        partition: Of the event's record.

    Returns:
        The deltas, `DELTA` after `DELTA`, those of one item together; none for a search.
    """
    key, kind, at_ms = entry.item_key, entry.event_type, entry.timestamp_ms
    if key == PADDING_KEY:
        return NO_DELTAS
    source = partition, entry.offset
    changes: list[_Delta] = [(key, *source, Kind.COUNT, kind, 0, 1.0, at_ms)]
    if kind in VISITS:
        changes += [
            (before, *source, Kind.CO_VISITED, 0, key, 1.0 / distance, at_ms)
            for distance, before in enumerate(_visited_before(row, key, at_ms), start=1)
        ]
    if kind == EventType.PURCHASE and entry.order_key != NO_ORDER:
        lines, standing = _lines(row.entries("purchases"), entry.order_key)
        if len(lines) < ORDER_LINES:
            for other in standing["item_key"].tolist():
                changes += _pair(source, key, other, 1.0, at_ms)
    if kind in UNDOES:
        changes += _taken_back(source, row, EventType(kind), key, entry.order_key)
    changes.sort(key=itemgetter(0))
    # Packed at once: there are five for each event, and as objects they would be forty.
    return b"".join(starmap(_pack, changes))


_Source = tuple[int, int]  # partition and offset of the event
_Delta = tuple[int, int, int, Kind, int, int, float, int]  # the fields of `DELTA`
_pack = struct_of(DELTA, *DELTA.names or ()).pack


def _visited_before(row: UserRow, key: int, at_ms: int) -> list[int]:
    """The last distinct items of the session before a visit of *key* at *at_ms*, newest first."""
    items: list[int] = []
    newer_ms = at_ms
    for visited_ms, _, visited in newest_visits(row, at_ms):
        if newer_ms - visited_ms > SESSION_GAP_MS:
            break
        newer_ms = visited_ms
        if visited == key:
            if not items:  # a run of actions on one item is one visit, counted with its first
                return []
        elif visited not in items:
            items.append(visited)
            if len(items) == NEIGHBOURS_BEFORE:
                break
    return items


def newest_visits(row: UserRow, until_ms: int = _FOREVER) -> Iterator[tuple[int, int, int]]:
    """(event time, offset, item key) of the newest visits up to *until_ms*, newest first."""
    acted = _newest_of(row.packed["interactions"], until_ms)
    bought = _newest_of(row.packed["purchases"], until_ms)
    one, other = next(acted, None), next(bought, None)
    while one and other:  # of two lists heapq.merge takes twice as long
        if one > other:
            yield one
            one = next(acted, None)
        else:
            yield other
            other = next(bought, None)
    if one:
        yield one
        yield from acted
    elif other:
        yield other
        yield from bought


def _newest_of(entries: bytes, until_ms: int) -> Iterator[tuple[int, int, int]]:
    end = len(entries)
    while end and _VISIT.unpack_from(entries, end - _VISIT.size)[0] > until_ms:
        end -= _VISIT.size
    first = max(0, end - _LOOK_BACK * _VISIT.size)
    for at in range(end - _VISIT.size, first - 1, -_VISIT.size):
        visited_ms, offset, key, kind = _VISIT.unpack_from(entries, at)
        if kind in VISITS:
            yield visited_ms, offset, key


_VISIT = entry_struct("timestamp_ms", "offset", "item_key", "event_type")


def _lines(purchases: Entries, order: int) -> tuple[Entries, Entries]:
    """The lines of *order* that make pairs, and those of them that no refund has taken back."""
    of_order = (purchases["order_key"] == order) & (purchases["event_type"] == EventType.PURCHASE)
    if not of_order.any():
        return purchases[:0], purchases[:0]
    lines = purchases[of_order]
    lines = lines[np.argsort(lines["offset"])][:ORDER_LINES]
    standing = _standing(purchases, EventType.PURCHASE, EventType.REFUND)
    return lines, lines[np.isin(lines["offset"], standing["offset"])]


def _pair(source: _Source, key: int, other: int, weight: float, at_ms: int) -> Iterator[_Delta]:
    if key != other:
        yield (key, *source, Kind.BOUGHT_TOGETHER, 0, other, weight, at_ms)
        yield (other, *source, Kind.BOUGHT_TOGETHER, 0, key, weight, at_ms)


def _taken_back(
    source: _Source, row: UserRow, undo: EventType, key: int, order: int
) -> Iterator[_Delta]:
    """What the action that *undo* takes back has said, negated, at the times when it was said."""
    does, name = UNDOES[undo]
    entries = row.entries(name)
    standing = _standing(entries[entries["item_key"] == key], does, undo)
    named = _named_order(undo, order)
    of_order = standing[(standing["order_key"] == named) | (named == NO_ORDER)]
    if not len(of_order):
        return
    undone = of_order[np.lexsort((of_order["offset"], of_order["timestamp_ms"]))[-1]]
    yield (key, *source, Kind.COUNT, int(does), 0, -1.0, int(undone["timestamp_ms"]))
    if does != EventType.PURCHASE or undone["order_key"] == NO_ORDER:
        return
    lines, still = _lines(entries, int(undone["order_key"]))
    if undone["offset"] not in lines["offset"]:
        return
    for other in still:
        # The pair was counted with whichever of the two was folded later.
        later = undone if undone["offset"] > other["offset"] else other
        yield from _pair(source, key, int(other["item_key"]), -1.0, int(later["timestamp_ms"]))


def _standing(entries: Entries, does: EventType, undoes: EventType) -> Entries:
    """
    The actions of type *does* among *entries* that none of type *undoes* has taken back.

    Decided as it was when each arrived: an undoing took back the newest action on its item that
    stood then, of its order if it named one.
    """
    if not (entries["event_type"] == undoes).any():
        done: Entries = entries[entries["event_type"] == does]
        return done
    arrived: Entries = entries[np.argsort(entries["offset"])]
    standing: defaultdict[int, list[int]] = defaultdict(list)  # by item: places in `arrived`
    for place, entry in enumerate(arrived):
        key, kind = int(entry["item_key"]), entry["event_type"]
        if kind == does:
            standing[key].append(place)
        elif kind == undoes:
            order = _named_order(undoes, entry["order_key"])
            taken = [at for at in standing[key] if order in (NO_ORDER, arrived["order_key"][at])]
            if taken:
                newest = max(taken, key=lambda at: (arrived["timestamp_ms"][at], at))
                standing[key].remove(newest)
    still: Entries = arrived[sorted(at for places in standing.values() for at in places)]
    return still


def _named_order(undoes: EventType, order: int) -> int:
    """The order of which something is taken back; a cart knows none, whatever the event says."""
    return order if undoes == EventType.REFUND else NO_ORDER


def signal_records(
    deltas: bytes | bytearray, partitions: int = topics.SIGNAL_PARTITIONS
) -> list[Outgoing]:
    """
    A micro-batch's deltas as records: one for each partition that has any, which is item key
    modulo *partitions*.

    Args:
        deltas: As `signals_of` gives them, event by event in source order.
        partitions: How many `signals.v1` has.
    """
    if not deltas:
        return []
    packed = np.frombuffer(deltas, DELTA)
    targets = packed["item_key"] % partitions
    order = np.argsort(targets, kind="stable")
    packed, targets = packed[order], targets[order]
    present, starts = np.unique(targets, return_index=True)
    parts = np.split(packed, starts[1:].tolist())
    return [
        Outgoing(topics.SIGNALS, str(target).encode(), to_bytes(part), partition=target)
        for target, part in zip(present.tolist(), parts, strict=True)
    ]


def to_bytes(deltas: Deltas) -> bytes:
    """The value of a record: the format number, then the deltas."""
    return np.array(FORMAT, _HEADER).tobytes() + deltas.tobytes()


def from_bytes(raw: bytes) -> Deltas:
    """
    The deltas ``(n,)`` of a record, in source order.

    Raises:
        UnknownSignalsFormat: If it was written by another format of this software.
    """
    written = int.from_bytes(raw[: _HEADER.itemsize], "little")
    if written != FORMAT or (len(raw) - _HEADER.itemsize) % DELTA.itemsize:
        raise UnknownSignalsFormat(f"signals format {written}, this worker reads {FORMAT}")
    return np.frombuffer(raw, DELTA, offset=_HEADER.itemsize)
