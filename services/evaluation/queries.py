"""What the methods are asked: whose next items, known up to which event, and what was right."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from services.training.log import EventLog
from stream.event_types import EventType

TARGETS = (EventType.CLICK, EventType.VIEW, EventType.ADD_TO_CART, EventType.PURCHASE)
SESSION_GAP_MS = 30 * 60 * 1000
NOTHING = -1


@dataclass(frozen=True)
class Queries:
    """
    Questions in the order in which they are asked.

    Attributes:
        users: ``(Q,)``
        before: ``(Q,)`` place in the log of the user's newest known event, -1 if there is none.
        asked_at: ``(Q,)`` ascending: counters have learnt this many events of their log.
        right: ``(Q, R)`` items, padded with -1.
    """

    users: NDArray[np.int64]
    before: NDArray[np.int64]
    asked_at: NDArray[np.int64]
    right: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.users)

    def where(self, chosen: NDArray[Any] | slice) -> "Queries":
        """Only the chosen ones: a mask, places or a slice."""
        columns = (self.users, self.before, self.asked_at, self.right)
        return Queries(*(column[chosen] for column in columns))


class Histories:
    """Each user's events in order, to be looked up from any of them backwards."""

    def __init__(self, log: EventLog) -> None:
        self.log = log
        self.sessions = session_numbers(log)  # (E,)
        self._order = np.argsort(log.users, kind="stable")  # by user, and by time within
        self._position = np.empty_like(self._order)
        self._position[self._order] = np.arange(len(log))
        firsts = np.flatnonzero(np.diff(log.users[self._order], prepend=NOTHING))
        self._begins = np.repeat(firsts, np.diff(np.append(firsts, len(log))))[self._position]

    def places(
        self, before: NDArray[np.int64], length: int
    ) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
        """
        The newest *length* events up to each of *before* ``(B,)``, oldest first.

        Returns:
            ``(B, length)`` places in the log, and which are real: the others are padding on the
            left, their place is 0.
        """
        newest = self._position[before][:, None]
        at = newest - np.arange(length - 1, -1, -1)[None, :]
        real = (at >= self._begins[before][:, None]) & (before >= 0)[:, None]
        return self._order[np.where(real, at, 0)], real

    def newest_before(
        self, users: NDArray[np.int64], times_ms: NDArray[np.int64]
    ) -> NDArray[np.int64]:
        """``(B,)`` place of each user's newest event before a time of their own, -1 if none."""
        log, first_ms = self.log, self.log.first_ms
        span_ms = self.log.last_ms - first_ms + 3
        clock = log.users[self._order] * span_ms + log.times_ms[self._order] - first_ms + 1
        asked = users * span_ms + np.clip(times_ms - first_ms + 1, 0, span_ms - 1)
        at = np.searchsorted(clock, asked) - 1
        places = self._order[at.clip(min=0)]
        return np.where((at >= 0) & (log.users[places] == users), places, NOTHING)

    def lengths(self, before: NDArray[np.int64]) -> NDArray[np.int64]:
        """``(B,)`` how many events each user has up to *before*."""
        counts = self._position[before] - self._begins[before] + 1
        return np.where(before >= 0, counts, 0)

    def items(self, before: NDArray[np.int64], longest: int | None = None) -> NDArray[np.int64]:
        """``(B, L)`` items of all (or of the newest *longest*) events up to *before*; -1 pads."""
        length = int(self.lengths(before).max(initial=0))
        places, real = self.places(before, min(length, longest or length))
        return np.where(real, self.log.items[places], NOTHING)

    def session_items(
        self, before: NDArray[np.int64], longest: int | None = None
    ) -> NDArray[np.int64]:
        """As `items`, but of the session of *before* only."""
        length = int(self.lengths(before).max(initial=0))
        places, real = self.places(before, min(length, longest or length))
        same = real & (self.sessions[places] == self.sessions[before][:, None])
        return np.where(same, self.log.items[places], NOTHING)


def session_numbers(log: EventLog) -> NDArray[np.int64]:
    """``(E,)`` a number for each session: the log's own, else it ends after 30 quiet minutes."""
    order = np.argsort(log.users, kind="stable")
    users, sessions, times_ms = log.users[order], log.sessions[order], log.times_ms[order]
    new = np.ones(len(log), bool)
    new[1:] = (users[1:] != users[:-1]) | (sessions[1:] != sessions[:-1])
    new[1:] |= (sessions[1:] == NOTHING) & (np.diff(times_ms) > SESSION_GAP_MS)
    numbers = np.empty(len(log), np.int64)
    numbers[order] = np.cumsum(new) - 1
    return numbers


def runs(items: NDArray[np.int64]) -> list[int]:
    """One row of `Histories.items` as a list: no padding, runs of one item as one, newest last."""
    kept = items[items != NOTHING]
    return kept[np.append(kept[1:] != kept[:-1], True)].tolist() if len(kept) else []


def next_in_session(log: EventLog, from_ms: int) -> Queries:
    """
    Each next item within a session at or after *from_ms*, asked just before it happens.

    A target is a click, view, add to cart or purchase whose user's previous event is of the same
    session, at most 30 minutes old and on another item.
    """
    order = np.argsort(log.users, kind="stable")
    at, before = order[1:], order[:-1]
    same = (log.users[at] == log.users[before]) & (log.sessions[at] == log.sessions[before])
    soon = log.times_ms[at] - log.times_ms[before] <= SESSION_GAP_MS
    counts = np.isin(log.types[at], TARGETS) & (log.items[at] != log.items[before])
    chosen = same & soon & counts & (log.times_ms[at] >= from_ms)
    by_time = np.argsort(at[chosen])
    at, before = at[chosen][by_time], before[chosen][by_time]
    return Queries(log.users[at], before, at, log.items[at][:, None])


def last_items(log: EventLog, back: int = 1) -> tuple[Queries, NDArray[np.bool_]]:
    """
    Each user's last item, or the one *back* from the end, asked of all that came before it.

    An item is one run of events on it. Users with fewer than *back* + 1 runs are left out.

    Returns:
        The queries; `asked_at` is 0, to be set by who knows what the counters learn. And ``(E,)``
        the events before each user's last *back* runs, all of those of the users left out.
    """
    order = np.argsort(log.users, kind="stable")
    users, items = log.users[order], log.items[order]
    new_user = np.diff(users, prepend=NOTHING) != 0
    starts_run = new_user | (np.diff(items, prepend=NOTHING) != 0)
    run = np.cumsum(starts_run) - 1  # (E,)
    firsts = np.flatnonzero(starts_run)  # (R,) of each run
    left = np.bincount(users[firsts])[users[firsts]] - _count_within(users[firsts])  # runs left
    total = np.bincount(users[firsts])[users[firsts]]
    kept = np.empty(len(log), bool)
    kept[order] = ((left > back) | (total <= back))[run]
    asked = firsts[(left == back) & (total > back)]
    queries = Queries(
        users=users[asked],
        before=order[asked - 1],
        asked_at=np.zeros(len(asked), np.int64),
        right=items[asked][:, None],
    )
    return queries, kept


def _count_within(groups: NDArray[np.int64]) -> NDArray[np.int64]:
    """``(N,)`` 0, 1, 2, … within each run of equal *groups*."""
    firsts = np.flatnonzero(np.diff(groups, prepend=NOTHING))
    return np.arange(len(groups)) - np.repeat(firsts, np.diff(np.append(firsts, len(groups))))


def after(log: EventLog, from_ms: int, most: int = 100) -> Queries:
    """All (at most *most*) items that a user acts on from *from_ms* on, asked at that moment."""
    later = np.flatnonzero((log.times_ms >= from_ms) & np.isin(log.types, TARGETS))
    pairs = np.unique(np.stack([log.users[later], log.items[later]], axis=1), axis=0)
    within = _count_within(pairs[:, 0])
    users, rows = np.unique(pairs[:, 0], return_inverse=True)
    fits = within < most
    right = np.full((len(users), min(most, int(within.max(initial=0)) + 1)), NOTHING)
    right[rows[fits], within[fits]] = pairs[fits, 1]
    known = np.flatnonzero(log.times_ms < from_ms)
    newest = np.full(int(log.users.max(initial=0)) + 1, NOTHING)
    newest[log.users[known]] = known  # the last one stays
    return Queries(users, newest[users], np.full(len(users), len(known)), right)
