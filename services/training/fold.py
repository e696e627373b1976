"""
The fold that serving uses, for training: which events count, and what was known when each came.

The rules are those of the user's row (`stream.history.verdict`), so the same duplicates and late
events are left out. An action that arrives out of order goes to its place by time. From then on
serving sees another history, while what came before has been judged by the old one. So a new *run*
of the user begins: a copy of the newest `HISTORY` actions, of which none is a target, and then what
arrives in order.
"""

from bisect import insort
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import IntEnum

import numpy as np
from numpy.typing import NDArray

from services.training.arrivals import ARRIVAL, Arrivals
from stream.history import LIMITS, Outcome, list_of, verdict

HISTORY = 128  # the longest history that a row gives to the ranker
_NEVER = int(np.iinfo(np.int64).min)
_NOT_ACTIONS = ("impressions", "searches")


class Role(IntEnum):
    """What an action is in its run."""

    COPY = 0  # it stood in an earlier run: history, not to be learnt twice
    OUT_OF_ORDER = 1  # its first appearance, and nothing that could have been foretold
    IN_ORDER = 2


# An action, the run that it is in, and its `Role` there.
ACTION = np.dtype([("run", "<i8"), ("role", "u1"), *ARRIVAL.descr])
Actions = NDArray[np.void]


@dataclass
class Fold:
    """
    `stream.fold.take_in` without entries: what becomes of a user's events, the order of actions.

    Attributes:
        actions: (event time, offset, place) of each accepted action, oldest first.
        disordered: Whether an action has gone to its place since the run began.
    """

    actions: list[tuple[int, int, int]] = field(default_factory=list)
    disordered: bool = False
    _lists: dict[str, list[tuple[int, int, int]]] = field(
        default_factory=lambda: {name: [] for name in LIMITS}
    )
    _evicted_ms: dict[str, int] = field(default_factory=lambda: dict.fromkeys(LIMITS, _NEVER))
    _known: set[int] = field(default_factory=set)

    def take(self, place: int, time_ms: int, offset: int, event_key: int, kind: int) -> Outcome:
        """Fold the event that lies at *place*."""
        name = list_of(kind)
        entries = self._lists[name]
        full = len(entries) == LIMITS[name]
        outcome = verdict(
            known=event_key in self._known,
            full=full,
            timestamp_ms=time_ms,
            oldest_ms=entries[0][0] if entries else _NEVER,
            evicted_ms=self._evicted_ms[name],
        )
        if outcome is not Outcome.FOLDED:
            return outcome
        self._known.add(event_key)
        insort(entries, (time_ms, offset, event_key))
        if full:
            self._evicted_ms[name], _, gone = entries.pop(0)
            self._known.discard(gone)
        if name not in _NOT_ACTIONS:
            action = (time_ms, offset, place)
            if self.actions and action < self.actions[-1]:
                insort(self.actions, action)
                self.disordered = True
            else:
                self.actions.append(action)
        return outcome


@dataclass
class _Runs:
    """The runs of a shard as they grow: for each action its place, run and role."""

    places: list[int] = field(default_factory=list)
    runs: list[int] = field(default_factory=list)
    roles: list[int] = field(default_factory=list)
    run: int = -1

    def add(self, place: int, role: Role) -> None:
        self.places.append(place)
        self.runs.append(self.run)
        self.roles.append(role)

    def begin(self, history: Sequence[tuple[int, int, int]], seen: set[int]) -> None:
        """Begin a run with a copy of *history*; places not in *seen* appear for the first time."""
        self.run += 1
        for _, _, place in history[-HISTORY:]:
            self.add(place, Role.COPY if place in seen else Role.OUT_OF_ORDER)


def in_order_of_arrival(arrivals: Arrivals, *, by_time: bool) -> Arrivals:
    """One user after the other, each one's events as they came."""
    arrived = (arrivals["offset"], arrivals["timestamp_ms"]) if by_time else (arrivals["offset"],)
    return arrivals[np.lexsort((*arrived, arrivals["user"]))]


def fold_runs(arrivals: Arrivals) -> tuple[Actions, Counter[Outcome]]:
    """
    The runs of each user in *arrivals*, and what became of the events.

    Args:
        arrivals: ``(n,)``, one user after the other, each one's in the order of arrival.
    """
    outcomes: Counter[Outcome] = Counter()
    grown = _Runs()
    changes = np.flatnonzero(np.diff(arrivals["user"])) + 1
    bounds = np.unique(np.concatenate([[0], changes, [len(arrivals)]]))
    for first, end in zip(bounds[:-1].tolist(), bounds[1:].tolist(), strict=True):
        _fold_user(arrivals[first:end], first, grown, outcomes)
    actions = np.zeros(len(grown.places), ACTION)
    taken = arrivals[np.array(grown.places, np.int64)]
    for name in ARRIVAL.names or ():
        actions[name] = taken[name]
    actions["run"], actions["role"] = grown.runs, grown.roles
    return actions, outcomes


def _fold_user(arrivals: Arrivals, first: int, grown: _Runs, outcomes: Counter[Outcome]) -> None:
    fold = Fold()
    seen: set[int] = set()
    columns = ("timestamp_ms", "offset", "event_key", "event_type")
    events = zip(*(arrivals[name].tolist() for name in columns), strict=True)
    grown.run += 1
    for place, (time_ms, offset, event_key, kind) in enumerate(events, start=first):
        actions, disordered = len(fold.actions), fold.disordered
        outcomes[fold.take(place, time_ms, offset, event_key, kind)] += 1
        in_order = len(fold.actions) > actions and fold.actions[-1][2] == place
        if not in_order:
            continue
        if disordered:
            grown.begin(fold.actions[:-1], seen)
            fold.disordered = False
            seen.update(action[2] for action in fold.actions)
        grown.add(place, Role.IN_ORDER)
        seen.add(place)
    if fold.disordered:
        grown.begin(fold.actions, seen)
