"""Stage 3, fold: take a micro-batch into the users' rows, event by event; count every record."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from stream.decode import Accepted, Decoded, Misplaced, Refused
from stream.events import Event
from stream.history import Outcome, UserRow, entry_of
from stream.marks import Mark
from stream.records import Record
from stream.signals import NO_DELTAS, signals_of


class Newest(NamedTuple):
    """A user's newest event of a batch, which their slate answers."""

    event_id: str
    record: Record


@dataclass(slots=True)
class Folded:
    """
    What a micro-batch makes of the state.

    Attributes:
        rows: The row of each touched user after the batch.
        marks: The mark of each partition after the batch.
        stored: What a compare-and-set expects of each touched user's row: ``applied`` as it was.
        newest: Each touched user's newest event of the batch.
        wanting_slates: Touched users with at least one live event, in order of appearance.
        refused, misplaced: Records that are published elsewhere.
        outcomes: One for each record not settled before, in order.
        deltas: What the events say of items, `stream.signals.DELTA` after `DELTA`, to be published
            before the rows are written. A record that its user's row has already owes none.
    """

    rows: dict[str, UserRow]
    marks: dict[int, Mark]
    stored: dict[str, str] = field(default_factory=dict)
    newest: dict[str, Newest] = field(default_factory=dict)
    wanting_slates: dict[str, None] = field(default_factory=dict)
    refused: list[Refused] = field(default_factory=list)
    misplaced: list[Misplaced] = field(default_factory=list)
    outcomes: list[Outcome] = field(default_factory=list)
    deltas: bytearray = field(default_factory=bytearray)


def fold(
    decoded: Sequence[Decoded], rows: Mapping[str, UserRow], marks: Mapping[int, Mark]
) -> Folded:
    """
    Fold *decoded*, in offset order for each partition, into *rows* and *marks*, in place.

    A record before its partition's mark is settled already: its slate is published and it is
    counted, so nothing is done. A record that the row has but the mark has not is what a crash
    between the two leaves behind: it is counted as the row remembers it, and its slate is made
    again.
    """
    first_unmarked = {partition: mark.next_offset for partition, mark in marks.items()}
    result = Folded(rows=dict(rows), marks=dict(marks))
    for one in decoded:
        partition, offset = one.record.partition, one.record.offset
        if offset < result.marks[partition].next_offset:
            continue
        outcome = _fold_one(result, one, first_unmarked[partition])
        result.marks[partition].settle(offset, outcome)
        result.outcomes.append(outcome)
    return result


def _fold_one(result: Folded, one: Decoded, first_unmarked: int) -> Outcome:
    if isinstance(one, Refused):
        result.refused.append(one)
        return Outcome.DEAD_LETTERED
    if isinstance(one, Misplaced):
        result.misplaced.append(one)
        return Outcome.REKEYED
    return _fold_event(result, one, first_unmarked)


def _fold_event(result: Folded, one: Accepted, first_unmarked: int) -> Outcome:
    user_id, record = one.event.user_id, one.record
    row = result.rows[user_id]
    if user_id not in result.newest:
        result.stored[user_id] = row.applied
        row.settle(first_unmarked)
    if record.partition == row.partition and record.offset <= row.offset:
        outcome = row.outcome_of(record.offset)
        if outcome is None:
            outcome = _found_in(row, record.offset)
    else:
        outcome, deltas = take_in(row, one.event, partition=record.partition, offset=record.offset)
        result.deltas += deltas
    result.newest[user_id] = Newest(one.event.event_id, record)
    if not one.is_backfill:
        result.wanting_slates[user_id] = None
    return outcome


def take_in(row: UserRow, event: Event, *, partition: int, offset: int) -> tuple[Outcome, bytes]:
    """Take an *event* that is newer than *row* into it: what became of it, and its signals."""
    entry = entry_of(event, offset)
    outcome = row.verdict(entry)
    deltas = signals_of(row, entry, partition=partition) if outcome is Outcome.FOLDED else NO_DELTAS
    row.take(entry, outcome, partition=partition)
    return outcome, deltas


def _found_in(row: UserRow, offset: int) -> Outcome:
    # The mark was lost with more than a batch after it; the lists tell what they still can.
    is_there = any((entries["offset"] == offset).any() for entries in row.lists.values())
    return Outcome.FOLDED if is_there else Outcome.DUPLICATE
