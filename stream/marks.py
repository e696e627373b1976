"""A partition's mark: how far it has been settled, and what became of each of its records."""

from dataclasses import dataclass, field
from typing import Self

import orjson

from stream.history import Outcome

FORMAT = 1


@dataclass(slots=True)
class Mark:
    """
    Kept in the feature store beside the rows, so that counts survive whatever is killed.

    Attributes:
        next_offset: All records before it are settled: their effects are acknowledged.
        counts: Records by `Outcome`. Their sum is all that was ever read of the partition.
    """

    next_offset: int = 0
    counts: list[int] = field(default_factory=lambda: [0] * len(Outcome))

    def settle(self, offset: int, outcome: Outcome) -> None:
        """Count the record at *offset*; it must not lie before ``next_offset``."""
        self.next_offset = offset + 1
        self.counts[outcome] += 1

    def to_bytes(self) -> bytes:
        """JSON, because people read it when something is wrong."""
        counts = {outcome.name.lower(): self.counts[outcome] for outcome in Outcome}
        return orjson.dumps({"format": FORMAT, "next_offset": self.next_offset, **counts})

    @classmethod
    def from_bytes(cls, raw: bytes | None) -> Self:
        """Read a mark; None, a partition never read, is a new one."""
        if raw is None:
            return cls()
        mark = orjson.loads(raw)
        counts = [mark[outcome.name.lower()] for outcome in Outcome]
        return cls(next_offset=mark["next_offset"], counts=counts)
