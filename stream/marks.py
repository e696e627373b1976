"""A partition's mark: how far it has been settled, and what became of each of its records."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol, Self

import orjson

from stream.history import Outcome
from stream.state import Replacement, StateMoved

FORMAT = 2


class LogId(NamedTuple):
    """Which log a mark speaks of: a topic that was deleted and made again is another one."""

    cluster_id: str
    topic_id: str


NO_LOG = LogId("", "")


class LogMismatch(Exception):
    """The log is not the one that the marks speak of, or no longer reaches as far: rebuild."""


@dataclass(slots=True)
class Mark:
    """
    Kept in the feature store beside the rows, so that counts survive whatever is killed.

    Attributes:
        next_offset: All records before it are settled: their effects are acknowledged.
        counts: Records by `Outcome`. Their sum is all that was ever read of the partition.
        log: Where the offsets are.
    """

    next_offset: int = 0
    counts: list[int] = field(default_factory=lambda: [0] * len(Outcome))
    log: LogId = NO_LOG

    def settle(self, offset: int, outcome: Outcome) -> None:
        """Count the record at *offset*; it must not lie before ``next_offset``."""
        self.next_offset = offset + 1
        self.counts[outcome] += 1

    @property
    def applied(self) -> str:
        """What a compare-and-set expects of a stored mark; empty for one that is not stored."""
        return str(self.next_offset) if self.next_offset else ""

    def to_bytes(self) -> bytes:
        """JSON, because people read it when something is wrong."""
        counts = {outcome.name.lower(): self.counts[outcome] for outcome in Outcome}
        return orjson.dumps(
            {"format": FORMAT, "next_offset": self.next_offset, **counts, **self.log._asdict()}
        )

    @classmethod
    def from_bytes(cls, raw: bytes | None, log: LogId = NO_LOG) -> Self:
        """Read a mark; None, a partition never read, is a new one of *log*."""
        if raw is None:
            return cls(log=log)
        mark = orjson.loads(raw)
        counts = [mark[outcome.name.lower()] for outcome in Outcome]
        return cls(
            next_offset=mark["next_offset"],
            counts=counts,
            log=LogId(mark["cluster_id"], mark["topic_id"]),
        )


class MarkStore(Protocol):
    """Where marks are kept, beside rows."""

    async def read(
        self, keys: Sequence[Any], partitions: Sequence[int], /
    ) -> tuple[list[bytes | None], list[bytes | None]]:
        """Rows and marks, in the order asked; None where there is none."""
        ...


class OwnMarks:
    """
    The marks of the partitions that this worker owns, as it wrote them last.

    They are read again with every batch. One that differs means that another worker has written
    it, or that the store has come back older than it was.

    Args:
        log: Where this worker reads.
    """

    def __init__(self, log: LogId = NO_LOG) -> None:
        self._log = log
        self._last: dict[int, str] = {}  # `Mark.applied` by partition

    def own(self, stored: Mapping[int, bytes | None]) -> dict[int, Mark]:
        """
        Begin with the partitions just assigned, and with them alone.

        Raises:
            LogMismatch: If a mark speaks of another log.
        """
        marks = self._read(stored)
        for partition, mark in marks.items():
            if mark.log != self._log:
                raise LogMismatch(
                    f"partition {partition} was settled up to {mark.next_offset} in another log: "
                    f"{_differing(mark.log, self._log)}"
                )
        self._last = {partition: mark.applied for partition, mark in marks.items()}
        return marks

    def check(self, stored: Mapping[int, bytes | None]) -> dict[int, Mark]:
        """
        Read the marks that came with a batch.

        Raises:
            StateMoved: If one is not what this worker wrote last.
        """
        marks = self._read(stored)
        for partition, mark in marks.items():
            if self._last.get(partition) != mark.applied:
                left_at = self._last.get(partition, "none: not its own")
                raise _moved(partition, mark.next_offset, left_at)
        return marks

    def positions(self) -> dict[int, int]:
        """Partition to the offset that its mark names, as this worker wrote it last."""
        return {partition: int(applied or 0) for partition, applied in self._last.items()}

    def replacements(self, marks: Mapping[int, Mark]) -> dict[int, Replacement]:
        """What to write in place of the stored marks."""
        return {
            partition: Replacement(mark.to_bytes(), self._last[partition], mark.applied)
            for partition, mark in marks.items()
        }

    def expected(self, partitions: Iterable[int]) -> dict[int, str]:
        """What a compare-and-set expects of the stored marks."""
        return {partition: self._last[partition] for partition in partitions}

    def wrote(self, marks: Mapping[int, Mark]) -> None:
        """Remember what has been acknowledged."""
        self._last |= {partition: mark.applied for partition, mark in marks.items()}

    def _read(self, stored: Mapping[int, bytes | None]) -> dict[int, Mark]:
        return {p: Mark.from_bytes(raw, self._log) for p, raw in stored.items()}


async def take_over(store: MarkStore, marks: OwnMarks, partitions: Sequence[int]) -> dict[int, int]:
    """
    Make *partitions*, just assigned, this worker's own.

    Returns:
        Partition to the offset that its mark names.

    Raises:
        LogMismatch: If a mark speaks of another log.
    """
    _, stored = await store.read([], partitions)
    own = marks.own(dict(zip(partitions, stored, strict=True)))
    return {partition: mark.next_offset for partition, mark in own.items()}


async def require_no_older(store: MarkStore, marks: OwnMarks) -> None:
    """
    Notice that *store* has come back older though no batch comes that would read its mark.

    A mark that is further than this worker left it, or leaves it meanwhile, is no concern here.

    Raises:
        StateMoved: If a mark is older than this worker has left it.
    """
    positions = marks.positions()
    _, stored = await store.read([], list(positions))
    for (partition, left_at), raw in zip(positions.items(), stored, strict=True):
        if (found := Mark.from_bytes(raw).next_offset) < left_at:
            raise _moved(partition, found, left_at)


def _moved(partition: int, found: int, left_at: object) -> StateMoved:
    return StateMoved(
        f"the mark of partition {partition} is at {found}, this worker left it at {left_at}"
    )


def _differing(stored: LogId, ours: LogId) -> str:
    return ", ".join(
        f"{name} {was or 'unknown'}, now {now or 'unknown'}"
        for name, was, now in zip(LogId._fields, stored, ours, strict=True)
        if was != now
    )
