"""Users' rows and partitions' counters against the log: the same fold, up to each row's end."""

import struct
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from services.verification.report import Report
from stream.decode import Accepted, Decoded, Misplaced, Refused
from stream.fold import take_in
from stream.history import LIMITS, Entries, Outcome, UnknownRowFormat, UserRow
from stream.marks import Mark
from stream.records import Record

ReadRows = Callable[[Sequence[str]], Sequence[bytes | None]]


@dataclass(slots=True)
class _User:
    """
    Attributes:
        row: What the log has made of them so far.
        stored: Their row as it is kept; None when it has been compared, or cannot be.
        told: Whether a difference has been noted already.
    """

    row: UserRow
    stored: UserRow | None
    told: bool = False


def refold(row: UserRow, one: Accepted) -> tuple[Outcome, bytes]:
    """Fold an event as the worker does: what became of it, and its signals."""
    partition, offset = one.record.partition, one.record.offset
    row.settle(offset)  # else the outcomes of a whole life pile up
    return take_in(row, one.event, partition=partition, offset=offset)


@dataclass
class UsersCheck:
    """
    Compares the users of a family of partitions while its records pass by, oldest first.

    A user's row is read when the log first names them, and compared when the fold has come to the
    record that the row names as applied. So rows may move while the log is read, and a user's
    memory is given back as soon as they are compared.

    Args:
        read: Reads rows. It must see what the marks saw, or newer.
        marks: Of the family's partitions, read before any row.
        report: Takes counts and differences.
        signal: Is given the signals of each event that a mark has passed.
    """

    read: ReadRows
    marks: Mapping[int, Mark]
    report: Report
    signal: Callable[[bytes], None] = lambda deltas: None
    outcomes: dict[int, Counter[Outcome]] = field(init=False)
    _users: dict[str, _User] = field(default_factory=dict)
    _waiting: int = 0

    def __post_init__(self) -> None:
        self.outcomes = {partition: Counter() for partition in self.marks}

    @property
    def waiting(self) -> int:
        """How many users' rows are newer than what has been folded so far."""
        return self._waiting

    def take(self, decoded: Sequence[Decoded], *, meet: bool = True) -> None:
        """
        Fold records of the family, in order.

        Args:
            meet: Whether users not named before are to be compared too.
        """
        if meet:
            self._meet(decoded)
        for one in decoded:
            outcome = self._take(one)
            if outcome is not None and self._is_settled(one.record):
                self.outcomes[one.record.partition][outcome] += 1

    def finish(self) -> None:
        """Compare what is left: counters, and rows whose newest record the log does not have."""
        for user_id, user in self._users.items():
            if user.stored is not None:
                self._differ(user_id, user, "applied", user.stored.applied, "not in the log")
        for partition, mark in self.marks.items():
            for outcome in Outcome:
                counted, folded = mark.counts[outcome], self.outcomes[partition][outcome]
                if counted != folded:
                    name = outcome.name.lower()
                    self.report.differ("counter", f"partition {partition}", name, counted, folded)
            self.report.count("partitions' counters compared")

    def users(self) -> Iterator[str]:
        """Every user named so far."""
        return iter(self._users)

    def _meet(self, decoded: Sequence[Decoded]) -> None:
        named = (one.event.user_id for one in decoded if isinstance(one, Accepted))
        strangers = [user for user in dict.fromkeys(named) if user not in self._users]
        for user_id, raw in zip(strangers, self.read(strangers) if strangers else (), strict=True):
            user = _User(UserRow(), None)
            try:
                user.stored = None if raw is None else UserRow.from_bytes(raw)
            except (UnknownRowFormat, ValueError, IndexError, struct.error) as error:
                self._differ(user_id, user, "all of it", error, "a row")
            self._users[user_id] = user
            self._waiting += user.stored is not None

    def _take(self, one: Decoded) -> Outcome | None:
        if isinstance(one, Refused):
            return Outcome.DEAD_LETTERED
        if isinstance(one, Misplaced):
            return Outcome.REKEYED
        user = self._users.get(one.event.user_id)
        if user is None:
            return None
        if user.stored is None:
            self._beyond(one, user)
            return None
        outcome, deltas = refold(user.row, one)
        self.report.count("events folded")
        if deltas and self._is_settled(one.record):
            self.signal(deltas)
        if (user.row.partition, user.row.offset) == (user.stored.partition, user.stored.offset):
            self._compare(one.event.user_id, user, user.stored)
            user.stored = None
            self._waiting -= 1
        return outcome

    def _beyond(self, one: Accepted, user: _User) -> None:
        """An event newer than its user's row: there is nothing wrong if no mark has passed it."""
        if self._is_settled(one.record) and not user.told:
            where = f"record {one.record.partition}:{one.record.offset}"
            has = user.row.applied or "no row"
            self._differ(one.event.user_id, user, where, has, "folded")

    def _compare(self, user_id: str, user: _User, stored: UserRow) -> None:
        self.report.count("users compared")
        for where, was, should in row_differences(stored, user.row):
            self._differ(user_id, user, where, was, should)

    def _differ(
        self, user_id: str, user: _User, where: str, stored: object, folded: object
    ) -> None:
        user.told = True
        self.report.differ("user row", self.report.user(user_id), where, stored, folded)

    def _is_settled(self, record: Record) -> bool:
        return record.offset < self.marks[record.partition].next_offset


def row_differences(stored: UserRow, folded: UserRow) -> Iterator[tuple[str, object, object]]:
    """
    Where two rows of a user differ: the part, what is stored, and what was folded.

    Not compared is the tally: how many records were folded by one write is no part of a history.
    """
    for name in LIMITS:
        was, should = stored.lists[name], folded.lists[name]
        if was.tobytes() != should.tobytes():
            yield _first_difference(name, was, should)
        if stored.evicted_ms[name] != folded.evicted_ms[name]:
            yield f"evicted_ms.{name}", stored.evicted_ms[name], folded.evicted_ms[name]


def _first_difference(name: str, stored: Entries, folded: Entries) -> tuple[str, object, object]:
    for place, (was, should) in enumerate(zip(stored, folded, strict=False)):
        for column in was.dtype.names or ():
            if was[column].tobytes() != should[column].tobytes():
                return f"{name}[{place}].{column}", was[column], should[column]
    return f"{name}, length", len(stored), len(folded)
