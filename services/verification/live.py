"""A running system against its own logs: rows, counters, signals and items, while they move."""

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from features.store import FeatureRows
from services.states import State
from services.verification.items import ItemsCheck
from services.verification.passed import Passed, Progress
from services.verification.placement import decoded_in_order, families
from services.verification.recorded import RecordedTopic
from services.verification.report import Report
from services.verification.signals import SignalsCheck
from services.verification.spill import SpilledSignals
from services.verification.users import UsersCheck
from stream.marks import Mark


@dataclass(frozen=True)
class System:
    """
    What is verified.

    Attributes:
        state: The live one.
        events, signals: The two logs.
        users, items: The rows that are folded from them, and the marks of their partitions.
        max_ahead_ms: As the workers have it: it decides what is a dead letter.
    """

    state: State
    events: RecordedTopic
    signals: RecordedTopic
    users: FeatureRows[str]
    items: FeatureRows[int]
    max_ahead_ms: int


def verify(system: System, report: Report, advanced: Progress) -> None:
    """
    Compare everything, and say in *report* what differs.

    What the marks say is read first, then signals.v1, then events.v1 with its users' rows: each is
    at least as new as what was read before it, so nothing that was settled then may be missing.

    Raises:
        CommandFailed: If Kafka falls silent.
        StoreError: If Redis does.
    """
    marks = read_marks(system.users, system.events.partitions)
    item_marks = read_marks(system.items, system.signals.partitions)
    passed = Passed(advanced, _size(system.events) + _size(system.signals))
    signals = list(_whole(system.signals, report))
    events = set(_whole(system.events, report))
    with tempfile.TemporaryDirectory(prefix="headrace-verify-") as directory:
        found = SpilledSignals(Path(directory))
        for partition in signals:
            settled = item_marks[partition].next_offset
            check = ItemsCheck(system.items.read, partition, settled, report)
            _verify_items(system, check, found, passed)
        found.flush()
        compared = len(signals) == len(system.signals.partitions)
        for family in families(system.state):
            if events.issuperset(family):
                own = {partition: marks[partition] for partition in family}
                _verify_users(system, own, found if compared else None, report, passed)


def read_marks(
    rows: FeatureRows[str] | FeatureRows[int], partitions: Sequence[int]
) -> dict[int, Mark]:
    """The marks of *partitions*; an empty one where there is none."""
    raw = rows.read_marks(partitions)
    return {p: Mark.from_bytes(mark) for p, mark in zip(partitions, raw, strict=True)}


def _verify_items(system: System, check: ItemsCheck, found: SpilledSignals, passed: Passed) -> None:
    first, end = 0, system.signals.end(check.partition)
    while first < end:
        for records in system.signals.records(check.partition, first, end):
            found.add(check.take(records, meet=first == 0))
            passed.add(len(records))
        # Rows have moved on meanwhile: read on, until each has been met where it stood when read.
        first, end = end, system.signals.end(check.partition) if check.waiting else end
    check.finish()


def _verify_users(
    system: System,
    marks: Mapping[int, Mark],
    found: SpilledSignals | None,
    report: Report,
    passed: Passed,
) -> None:
    signals = SignalsCheck(found, marks, report) if found is not None else None
    expect = signals.expect if signals is not None else _ignore
    check = UsersCheck(system.users.read, marks, report, expect)
    first = dict.fromkeys(marks, 0)
    end = {partition: system.events.end(partition) for partition in marks}
    meet = True
    while first != end:
        for decoded in decoded_in_order(
            system.events.records, system.state, first, end, max_ahead_ms=system.max_ahead_ms
        ):
            check.take(decoded, meet=meet)
            passed.add(len(decoded))
        first, meet = end, False
        if check.waiting:  # as with items
            end = {partition: system.events.end(partition) for partition in marks}
    check.finish()
    if signals is not None:
        signals.finish()


def _whole(topic: RecordedTopic, report: Report) -> Iterator[int]:
    """The partitions of which every record is still there; *report* says which are not."""
    for partition in topic.partitions:
        if missing := topic.missing(partition, topic.end(partition)):
            gaps = ", ".join(f"{gap.first} to {gap.end - 1}" for gap in missing)
            report.unchecked.append(
                f"partition {partition} of {topic.name}: neither the archive nor Kafka has the "
                f"records {gaps}."
            )
        else:
            yield partition


def _size(topic: RecordedTopic) -> int:
    return sum(topic.end(partition) for partition in topic.partitions)


def _ignore(deltas: bytes) -> None:
    """Signals cannot be compared: signals.v1 does not reach back to its beginning."""
