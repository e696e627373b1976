"""
A new state beside the live one, from the archive and the logs; then the switch.

Nothing of the live state is read or changed, so it may be lost, of another row format, or made for
another number of partitions. Each partition is folded up to what the workers have committed: the
signals of those events are on signals.v1, and their slates are published. The workers go on from
there when the new state is announced.
"""

import asyncio
from collections.abc import Iterator, Mapping, Sequence
from contextlib import aclosing, suppress
from dataclasses import dataclass, field
from datetime import datetime
from functools import partial
from itertools import islice

from features.projects import drop
from features.store import AsyncRows, FeatureRows
from services import states
from services.kafka.batch_publisher import BatchPublisher
from services.kafka.follow import Follower
from services.kafka.log_id import log_id
from services.settings import WorkerSettings
from services.states import Layout, State
from services.verification.passed import Passed, Progress
from services.verification.placement import decoded_in_order, families
from services.verification.recorded import RecordedTopic, committed
from services.verification.users import refold
from services.worker.item_statistics import ItemViews
from stream import topics
from stream.catalogue import Catalogue
from stream.decode import Decoded, Misplaced, Refused
from stream.history import Outcome, UserRow
from stream.items import InvalidItem, parse_item
from stream.marks import Mark
from stream.signals import NO_DELTAS, signal_records
from stream.state import Dependencies, Replacement
from stream.topics import with_prefix

ROWS_AT_ONCE = 500
CATCH_UP_S = 120.0


@dataclass(frozen=True)
class Plan:
    """
    What a rebuild will do.

    Attributes:
        state: The state to make.
        ends: Partition of events.v1 to the offset before which its records are folded.
        signal_ends: The same of signals.v1, all of which is folded.
        gaps: One line for each stretch of records that nobody has any more.
    """

    state: State
    ends: Mapping[int, int]
    signal_ends: Mapping[int, int]
    gaps: Sequence[str]

    @property
    def publishes_signals(self) -> bool:
        """Whether signals.v1 is empty: the events were folded by a version without statistics."""
        return not any(self.signal_ends.values())


def plan(
    settings: WorkerSettings, events: RecordedTopic, signals: RecordedTopic, *, now: datetime
) -> Plan:
    """What is to be done; nothing is changed by asking."""
    live = states.live(settings)
    group = with_prefix(settings.prefix, settings.worker_group)
    done = committed(settings.kafka, group, events.name, events.partitions)
    # A group that is not known has forgotten how far it was, or never was: all there is, then.
    ends = {p: done.get(p, 0) if done else events.end(p) for p in events.partitions}
    signal_ends = {p: signals.end(p) for p in signals.partitions}
    return Plan(
        state=State(
            number=live.number + 1 if live is not None else 1,
            partitions=len(events.partitions),
            earlier=_earlier(live, len(events.partitions), ends),
            announced_at=now,
            reason="headrace rebuild",
        ),
        ends=ends,
        signal_ends=signal_ends,
        gaps=[*_gaps(events, ends), *_gaps(signals, signal_ends)],
    )


def rebuild(
    settings: WorkerSettings,
    planned: Plan,
    events: RecordedTopic,
    signals: RecordedTopic,
    advanced: Progress,
) -> None:
    """
    Make the planned state and announce it. What an earlier try has left of it is deleted first.

    Raises:
        CommandFailed: If Kafka falls silent.
        StateMoved: If somebody writes the same state at the same time.
        StoreError: If Redis does not answer.
    """
    users = states.open_rows(settings, planned.state.number)
    drop(users)
    done = Passed(advanced, sum(planned.ends.values()) + sum(planned.signal_ends.values()))
    publisher = BatchPublisher(settings.kafka, prefix=settings.prefix)
    _fold_users(settings, planned, events, users, publisher, done)
    ends = {p: signals.end(p) for p in signals.partitions}
    asyncio.run(_fold_items(settings, signals, ends, users, done))
    states.announce(settings, planned.state)
    users.close()


def _earlier(live: State | None, partitions: int, ends: Mapping[int, int]) -> tuple[Layout, ...]:
    """How partitions were numbered before, if the live state was made for another number."""
    if live is None or live.partitions == partitions:
        return live.earlier if live is not None else ()
    until = tuple(ends[partition] for partition in range(partitions))
    return (*live.earlier, Layout(partitions=live.partitions, until=until))


def _gaps(topic: RecordedTopic, ends: Mapping[int, int]) -> Iterator[str]:
    for partition, end in ends.items():
        for gap in topic.missing(partition, end):
            yield f"{topic.name} partition {partition}: {gap.first} to {gap.end - 1}"


def _fold_users(
    settings: WorkerSettings,
    planned: Plan,
    events: RecordedTopic,
    users: FeatureRows[str],
    publisher: BatchPublisher,
    done: Passed,
) -> None:
    log = log_id(settings.kafka, events.name)
    max_ahead_ms = round(settings.max_ahead_s * 1000)
    for family in families(planned.state):
        folding = Folding({p: Mark(log=log) for p in family})
        begin, end = dict.fromkeys(family, 0), {p: planned.ends[p] for p in family}
        for decoded in decoded_in_order(
            events.records, planned.state, begin, end, max_ahead_ms=max_ahead_ms
        ):
            deltas = folding.take(decoded)
            if planned.publishes_signals:
                asyncio.run(publisher(signal_records(deltas)))
            done.add(len(decoded))
        folding.write(users, planned.ends)


@dataclass
class Folding:
    """The rows and marks of a family of partitions, as its records make them."""

    marks: dict[int, Mark]
    rows: dict[str, UserRow] = field(default_factory=dict)

    def take(self, decoded: Sequence[Decoded]) -> bytearray:
        """Fold records, in order; returns what they say of items."""
        signals = bytearray()
        for one in decoded:
            outcome, deltas = self._fold(one)
            self.marks[one.record.partition].settle(one.record.offset, outcome)
            signals += deltas
        return signals

    def write(self, users: FeatureRows[str], ends: Mapping[int, int]) -> None:
        """Write all of it into an empty state, each write on the one before it, as workers do."""
        written: Dependencies = ()
        rows = iter(self.rows.items())
        while chunk := dict(islice(rows, ROWS_AT_ONCE)):
            for row in chunk.values():
                row.settle(ends[row.partition])
            written = users.write_rows(
                {user: Replacement(row.to_bytes(), "", row.applied) for user, row in chunk.items()},
                after=written,
            )
        for partition, mark in self.marks.items():
            mark.next_offset = ends[partition]
        users.write_marks(
            {
                partition: Replacement(mark.to_bytes(), "", mark.applied)
                for partition, mark in self.marks.items()
                if mark.next_offset
            },
            after=written,
        )

    def _fold(self, one: Decoded) -> tuple[Outcome, bytes]:
        if isinstance(one, Refused):
            return Outcome.DEAD_LETTERED, NO_DELTAS
        if isinstance(one, Misplaced):
            return Outcome.REKEYED, NO_DELTAS
        user_id = one.event.user_id
        return refold(self.rows.setdefault(user_id, UserRow()), one)


def _learn(
    catalogue: Catalogue, key: bytes, value: bytes | None, partition: int, offset: int
) -> None:
    """Take in one record of `items.v1`; what is no item is the worker's to complain of."""
    with suppress(InvalidItem, UnicodeDecodeError):
        if value is None:
            catalogue.delete(key.decode())
        else:
            catalogue.put(parse_item(value))


async def _fold_items(
    settings: WorkerSettings,
    signals: RecordedTopic,
    ends: Mapping[int, int],
    users: FeatureRows[str],
    done: Passed,
) -> None:
    """Have the owner of items, as it is in the worker, take in signals.v1 from its beginning."""
    catalogue = Catalogue()
    items = with_prefix(settings.prefix, topics.ITEMS)
    with Follower(settings.kafka, items, partial(_learn, catalogue)) as follower:
        follower.start(CATCH_UP_S)
    owner = ItemViews(users).owner(
        settings.kafka,
        signals.name,
        category_of=catalogue.category_of,
        in_memory=settings.items_in_memory,
    )
    async with aclosing(AsyncRows(users)):  # whose connections are the owner's too
        for partition in signals.partitions:
            await owner.take_over([partition])
            for records in signals.records(partition, 0, ends[partition]):
                await owner.keep(records)
                done.add(len(records))
