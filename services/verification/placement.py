"""Where a user's events lie, and in which order they came: also when partitions have been added."""

import heapq
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice

from services.states import State
from stream.decode import Decoded, decode
from stream.records import Record

_CHUNK = 4_096  # records

Offsets = Mapping[int, int]  # by partition
Read = Callable[[int, int, int], Iterable[list[Record]]]  # of a partition, from one offset to one


@dataclass(frozen=True, slots=True)
class Era:
    """
    The part of a log in which events.v1 had a certain number of partitions.

    Attributes:
        partitions: That number, by which workers then decided where an event belongs.
        first, end: Its offsets: from the first to before the end.
    """

    partitions: int
    first: Offsets
    end: Offsets


def families(state: State) -> list[tuple[int, ...]]:
    """
    Groups of partitions between which no user ever moved.

    A key's partition is its hash modulo their number. So whatever that number was, all of a user's
    partitions are alike modulo the greatest common divisor of the numbers.
    """
    counts = [state.partitions, *(layout.partitions for layout in state.earlier)]
    groups = math.gcd(*counts)
    return [tuple(range(group, max(counts), groups)) for group in range(groups)]


def eras(state: State, first: Offsets, end: Offsets) -> Iterator[Era]:
    """
    The eras between *first* and *end*, oldest first.

    One ended where the state of the next was rebuilt: the workers had come so far, no further.
    """
    at = dict(first)
    for layout in state.earlier:
        until = dict(enumerate(layout.until))
        stop = {p: min(max(at[p], until.get(p, 0)), end[p]) for p in at}
        yield Era(layout.partitions, at, stop)
        at = stop
    yield Era(state.partitions, at, end)


def decoded_in_order(
    read: Read, state: State, first: Offsets, end: Offsets, *, max_ahead_ms: int
) -> Iterator[list[Decoded]]:
    """
    The records of a family of partitions, decoded as they were by the workers of their time.

    Within an era they come as they were appended: by (broker time, partition, offset). Of one
    partition that is the order of the log, since the broker stamps what it appends.

    Args:
        read: Reads records of a partition.
        first, end: Of each partition of the family.
    """
    for era in eras(state, first, end):
        partitions = [read(p, era.first[p], era.end[p]) for p in era.first]
        for records in _merged(partitions):
            yield decode(records, partitions=era.partitions, max_ahead_ms=max_ahead_ms)


def _merged(partitions: list[Iterable[list[Record]]]) -> Iterator[list[Record]]:
    if len(partitions) == 1:
        yield from partitions[0]
        return
    merged = heapq.merge(
        *(_each(chunks) for chunks in partitions),
        key=lambda record: (record.timestamp_ms, record.partition, record.offset),
    )
    while chunk := list(islice(merged, _CHUNK)):
        yield chunk


def _each(chunks: Iterable[list[Record]]) -> Iterator[Record]:
    for chunk in chunks:
        yield from chunk
