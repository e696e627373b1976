"""
Events as they arrived, a chunk of columns at a time: however long the log, no more is in memory.

Of the archive an arrival is what the worker accepted; of any other log, every action on an item.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import xxhash
from numpy.typing import NDArray

from services.errors import CommandFailed
from stream.history import ENTRY
from stream.keys import item_key

# An entry of a user's row, whose it is, and in which session; -1: the log does not say.
ARRIVAL = np.dtype([("user", "<i8"), ("session", "<i8"), *ENTRY.descr])
Arrivals = NDArray[np.void]


class UnreadableLog(CommandFailed):
    """The log cannot be trained on; the message says where and why."""


@dataclass
class ItemNames:
    """Item ids by item key; where two share a key, the lexicographically smaller one has it."""

    ids: dict[int, str] = field(default_factory=dict)

    def key(self, item_id: str) -> int:
        """The item key of *item_id*, which is remembered."""
        key = item_key(item_id)
        self.ids[key] = min(item_id, self.ids.get(key, item_id))
        return key


@dataclass
class Source:
    """
    A log that is ready to be read.

    Attributes:
        chunks: The arrivals, ``(n,)`` of `ARRIVAL` each, to be read once.
        names: Fills while they are read.
        about: How many arrivals there are, roughly.
        by_time: Whether they count as having arrived in the order of event time.
        path: Where they come from, for messages.
    """

    chunks: Iterator[Arrivals]
    names: ItemNames
    about: int
    by_time: bool
    path: Path


def narrowed(source: Source, wanted: Callable[[Arrivals], NDArray[np.bool_]]) -> Source:
    """*source* with only the arrivals that *wanted* marks in each chunk."""
    return replace(source, chunks=(chunk[wanted(chunk)] for chunk in source.chunks))


def user_key(user_id: str) -> int:
    """A signed 64-bit hash: two users of ten million share one with a chance of 3e-6."""
    return hash_of(user_id)


def hash_of(text: str) -> int:
    """A signed 64-bit hash."""
    unsigned = xxhash.xxh3_64_intdigest(text.encode())
    return unsigned - (1 << 64) if unsigned >= 1 << 63 else unsigned


def first_line(error: Exception) -> str:
    """What an error says, without what follows."""
    return str(error).splitlines()[0]
