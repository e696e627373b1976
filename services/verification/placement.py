"""Where a user's events lie, also when the number of partitions has been raised since."""

import heapq
import math
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice

from services.states import Layout, State
from stream.decode import Accepted, Decoded, Misplaced, decode
from stream.keys import partition_of
from stream.records import Record

_CHUNK = 4_096  # records


def families(state: State) -> list[tuple[int, ...]]:
    """
    Groups of partitions between which no user ever moved.

    A key's partition is its hash modulo their number. So whatever that number was, all of a user's
    partitions are alike modulo the greatest common divisor of the numbers.
    """
    counts = [state.partitions, *(layout.partitions for layout in state.earlier)]
    groups = math.gcd(*counts)
    return [tuple(range(group, max(counts), groups)) for group in range(groups)]


def in_order(partitions: Sequence[Iterator[list[Record]]]) -> Iterator[list[Record]]:
    """
    The records of a family: as they came, by (broker time, partition, offset).

    Within a partition that is the order of the log: the broker stamps what it appends.
    """
    if len(partitions) == 1:
        yield from partitions[0]
        return
    streams = [_each(chunks) for chunks in partitions]
    merged = heapq.merge(*streams, key=lambda r: (r.timestamp_ms, r.partition, r.offset))
    while chunk := list(islice(merged, _CHUNK)):
        yield chunk


def decode_as_placed(
    records: Sequence[Record], state: State, *, max_ahead_ms: int
) -> list[Decoded]:
    """Decode *records* as they were when they came: by the number of partitions of their time."""
    decoded = decode(records, partitions=state.partitions, max_ahead_ms=max_ahead_ms)
    if not state.earlier:
        return decoded
    return [_as_placed(one, state.earlier) for one in decoded]


def _as_placed(one: Decoded, earlier: Sequence[Layout]) -> Decoded:
    if not isinstance(one, Misplaced):
        return one
    key, record = one.event.user_id.encode(), one.record
    if record.key == key and any(_was_there(record, key, layout) for layout in earlier):
        return Accepted(record, one.event)
    return one


def _was_there(record: Record, key: bytes, layout: Layout) -> bool:
    return (
        record.partition == partition_of(key, layout.partitions)
        and record.offset < layout.until[record.partition]
    )


def _each(chunks: Iterable[list[Record]]) -> Iterator[Record]:
    for chunk in chunks:
        yield from chunk
