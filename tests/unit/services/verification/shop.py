"""A small shop's log of one partition, and the state that the worker's own code makes of it."""

import random
from collections.abc import Sequence
from dataclasses import dataclass, field

from stream.decode import Accepted, Decoded, decode
from stream.fold import fold
from stream.history import UserRow
from stream.item_row import ItemRow, by_item
from stream.keys import partition_of
from stream.marks import Mark
from stream.records import Record
from stream.signals import from_bytes, signal_records
from stream.topics import EVENT_PARTITIONS
from tests.builders import T0_MS, a_record

PARTITION = 3
USERS = [
    name
    for name in (f"u{number}" for number in range(60))
    if partition_of(name.encode(), EVENT_PARTITIONS) == PARTITION
]
KINDS = (*("search",) * 4, "click", "view", "impression", "add_to_cart", "purchase", "refund")


def records(count: int, seed: int = 1) -> list[Record]:
    """Events, of which some are duplicates, late, misplaced, or no events at all."""
    draw = random.Random(seed)
    made: list[Record] = []
    for offset in range(count):
        record = a_record(
            offset,
            user_id=draw.choice((USERS[0], draw.choice(USERS))),  # one has full lists
            item_id=f"i{draw.randrange(9)}",
            query="hat",
            order_id=f"o{draw.randrange(40)}",
            event_type=draw.choice(KINDS),
            event_id=f"e{draw.randrange(count * 5)}",
            at_ms=T0_MS + offset * 1000 - draw.choice((0, 0, 0, 50_000_000)),
        )
        fate = draw.random()
        if fate < 0.03:
            record = record._replace(value=b"garbage")
        elif fate < 0.06:
            record = record._replace(key=None)
        made.append(record)
    return made


def decoded(log: Sequence[Record]) -> list[Decoded]:
    return decode(log, partitions=EVENT_PARTITIONS, max_ahead_ms=0)


@dataclass
class Shop:
    """What is kept after *settled* records, taken in batches of *batch*."""

    log: Sequence[Record]
    settled: int
    batch: int = 7
    rows: dict[str, bytes] = field(default_factory=dict)
    mark: Mark = field(default_factory=Mark)
    signals: list[Record] = field(default_factory=list)  # of signals.v1

    def __post_init__(self) -> None:
        self.work(self.settled)

    def work(self, records: int) -> None:
        """Take in so many more, as the worker does."""
        first = self.mark.next_offset
        for at in range(first, first + records, self.batch):
            self._take(self.log[at : min(at + self.batch, first + records)])

    def _take(self, batch: Sequence[Record]) -> None:
        taken = decoded(batch)
        users = {one.event.user_id for one in taken if isinstance(one, Accepted)}
        rows = {user: UserRow.from_bytes(self.rows.get(user)) for user in users}
        folded = fold(taken, rows, {PARTITION: self.mark})
        for out in signal_records(folded.deltas):
            offsets = sum(record.partition == out.partition for record in self.signals)
            self.signals.append(Record(out.partition or 0, offsets, 0, out.key, out.value))
        self.rows |= {user: folded.rows[user].to_bytes() for user in folded.newest}
        self.mark = folded.marks[PARTITION]

    def read(self, user_ids: Sequence[str]) -> list[bytes | None]:
        return [self.rows.get(user_id) for user_id in user_ids]

    def items(self, partition: int) -> dict[int, bytes]:
        """The rows that the owner of a partition of signals.v1 makes."""
        rows: dict[int, ItemRow] = {}
        for record in self.signals_of(partition):
            deltas = from_bytes(record.value or b"")
            for key in deltas["item_key"].tolist():
                rows.setdefault(key, ItemRow())
            for heard in by_item([deltas]):
                heard.fold_into(rows[heard.item_key], [record])
        return {key: row.to_bytes() for key, row in rows.items()}

    def signals_of(self, partition: int) -> list[Record]:
        return [record for record in self.signals if record.partition == partition]
