"""Predict, then learn: counters go through the log and answer each query just before its target."""

from collections.abc import Iterator, Mapping, Sequence
from itertools import islice

import numpy as np
from numpy.typing import NDArray

from services.evaluation.counting import Counter
from services.evaluation.queries import Histories, Queries, runs

BLOCK = 256  # queries scored together, or as many as have this many scores
BLOCK_SCORES = 1 << 25
RECENT = 50  # events of the history that counters look at

Scores = dict[str, NDArray[np.float32]]


class Walk:
    """
    Counters on their way through a log.

    Args:
        learnt: ``(E,)`` the events that counters may learn; `Queries.asked_at` counts these.
        within_session: Whether counters see the events of the newest session only, or all.
    """

    def __init__(
        self,
        histories: Histories,
        learnt: NDArray[np.bool_],
        counters: Mapping[str, Counter],
        *,
        within_session: bool,
    ) -> None:
        log = histories.log
        columns = (histories.sessions, log.items, log.times_ms)
        self._events = zip(*(column[learnt].tolist() for column in columns), strict=True)
        self._histories = histories
        self._counters = counters
        self._look = histories.session_items if within_session else histories.items
        self._done = 0

    def ask(self, queries: Queries, edges: Sequence[int] = ()) -> Iterator[tuple[slice, Scores]]:
        """
        Answer *queries* in order, having learnt of each just what came before it.

        Args:
            edges: Query numbers at which a block must end, such as midnights.

        Yields:
            Which queries, and each counter's scores ``(B, V)``.
        """
        items = len(self._histories.log.item_ids)
        for part in blocks(len(queries), items, edges):
            before, asked_at = queries.before[part], queries.asked_at[part].tolist()
            recent = self._look(before, RECENT)  # (B, L)
            scores = {name: np.empty((len(before), items), np.float32) for name in self._counters}
            for row, place in enumerate(asked_at):
                self._learn_until(place)
                session = int(self._histories.sessions[before[row]]) if before[row] >= 0 else -1
                merged = runs(recent[row])
                for name, counter in self._counters.items():
                    scores[name][row] = counter.scores(session, merged)
            yield part, scores

    def _learn_until(self, place: int) -> None:
        for session, item, time_ms in islice(self._events, place - self._done):
            for counter in self._counters.values():
                counter.learn(session, item, time_ms)
        self._done = place


def blocks(queries: int, items: int, edges: Sequence[int] = ()) -> Iterator[slice]:
    """Consecutive slices that fit into memory for so many *items*, and end at each of *edges*."""
    size = max(1, min(BLOCK, BLOCK_SCORES // items))
    start = 0
    for end in sorted({*edges, queries} - {0}):
        while start < end:
            stop = min(start + size, end)
            yield slice(start, stop)
            start = stop
