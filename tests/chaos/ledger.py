"""What was sent, and what the broker said of it."""

import itertools
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import StrEnum

NUMBER = "ledger-number"  # header of every record sent; copies and dead letters keep it


class Kind(StrEnum):
    """Why an event was sent, which decides what must become of it."""

    PLAIN = "plain"
    DUPLICATE = "duplicate"
    LATE = "late"
    MISPLACED = "misplaced"  # by a producer with another partitioner
    GARBAGE = "garbage"


ANSWERED = frozenset({Kind.PLAIN, Kind.DUPLICATE, Kind.LATE})
"""Kinds whose slate names the record itself; a misplaced one is answered by its copy's."""


@dataclass(slots=True)
class Entry:
    """One record sent."""

    kind: Kind
    user_id: str
    event_id: str = ""
    event_type: str = ""
    at_ms: int = 0  # event time
    sent_s: float = 0.0  # monotonic
    place: tuple[int, int] | None = None  # partition, offset; None: never reported as delivered


@dataclass
class Ledger:
    """
    Entries by number, in the order in which they were sent.

    Attributes:
        homes: User to partition, as the producer with Kafka's own partitioner placed them.
        refused: Why records were not delivered, one for each.
    """

    entries: list[Entry] = field(default_factory=list)
    homes: dict[str, int] = field(default_factory=dict)
    refused: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._undelivered: dict[int, float] = {}
        self._lock = threading.Lock()

    def write(self, entry: Entry) -> int:
        """Note *entry* before it is sent; its number."""
        with self._lock:
            self.entries.append(entry)
            number = len(self.entries) - 1
            self._undelivered[number] = entry.sent_s
        return number

    def delivered(self, number: int, partition: int, offset: int) -> Entry:
        """Note where the broker has it."""
        entry = self.entries[number]
        entry.place = partition, offset
        if entry.kind in ANSWERED:
            self.homes[entry.user_id] = partition
        with self._lock:
            del self._undelivered[number]
        return entry

    def was_refused(self, number: int, reason: str) -> None:
        """Note that it was given up."""
        self.refused.append(reason)
        with self._lock:
            del self._undelivered[number]

    def oldest_undelivered_s(self) -> float | None:
        """When the oldest record that the broker has not confirmed was sent."""
        with self._lock:
            return next(iter(self._undelivered.values()), None)

    def counts(self) -> dict[str, int]:
        """Records sent, by kind."""
        kinds = sorted(entry.kind for entry in self.entries)
        return {kind.value: len(list(group)) for kind, group in itertools.groupby(kinds)}

    def places(self) -> Iterator[tuple[int, tuple[int, int]]]:
        """Number and place of each delivered record."""
        for number, entry in enumerate(self.entries):
            if entry.place is not None:
                yield number, entry.place
