"""
Baselines that count: they learn from each event as it goes by, and never look ahead.

All give probability-like scores over the whole catalogue: what they have counted, mixed with a
little popularity, which decides between items that they know nothing of.
"""

import math
from array import array
from collections import defaultdict, deque
from collections.abc import Iterable
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

DAY_MS = 86_400_000
HALF_LIFE_DAYS = 7.0
POPULARITY_SHARE = 0.01  # of a score, for what was never seen together

Scores = NDArray[np.float64]  # (V,)


class Counter(Protocol):
    """A baseline in the midst of a log."""

    def learn(self, session: int, item: int, time_ms: int) -> None:
        """Take in one event; sessions may interleave, times do not fall."""

    def scores(self, session: int, recent: list[int]) -> Scores:
        """
        Rate every item as the next of *session*.

        Args:
            recent: Items of the session so far, newest last, runs of one item as one.
        """


class Fading:
    """
    Weights of events: those *half_life_days* older count half (None: all the same).

    Forward decay (Cormode et al., ICDE 2009): weights grow with time, so that what was counted
    need not be touched as it fades.
    """

    def __init__(self, half_life_days: float | None) -> None:
        self._half_life_ms = half_life_days * DAY_MS if half_life_days else math.inf
        self._start_ms: int | None = None

    def weight(self, time_ms: int) -> float:
        """What an event at *time_ms* counts, relative to the first one."""
        if self._start_ms is None:
            self._start_ms = time_ms
        return math.exp2((time_ms - self._start_ms) / self._half_life_ms)


class Popularity:
    """Counts of all events."""

    def __init__(self, items: int, half_life_days: float | None = None) -> None:
        self._counts = np.zeros(items)
        self._fading = Fading(half_life_days)

    def learn(self, session: int, item: int, time_ms: int) -> None:
        """Count it."""
        self._counts[item] += self._fading.weight(time_ms)

    def scores(self, session: int, recent: list[int]) -> Scores:
        """Each item's share of what was counted."""
        total = self._counts.sum()
        return self._counts / total if total else np.zeros_like(self._counts)


class Pairs:
    """How much each item counts after (or near) another, one sparse row an item."""

    def __init__(self) -> None:
        self._rows: defaultdict[int, defaultdict[int, float]] = defaultdict(_row)
        self._shares: dict[int, tuple[NDArray[np.int64], Scores]] = {}  # of rows that stood still

    def add(self, item: int, other: int, weight: float) -> None:
        """Count *other* once more with *item*."""
        self._rows[item][other] += weight
        self._shares.pop(item, None)

    def mixed(self, newest_first: Iterable[int], fade: float, items: int) -> Scores:
        """The rows' shares, each row *fade* times the weight of the one before it."""
        found, weight = np.zeros(items), 1.0
        for item in newest_first:
            if item in self._rows:
                places, shares = self._shares.get(item) or self._shared(item)
                found[places] += weight * shares
            weight *= fade
        return found

    def _shared(self, item: int) -> tuple[NDArray[np.int64], Scores]:
        row = self._rows[item]
        counts = np.fromiter(row.values(), np.float64, len(row))
        shared = np.fromiter(row.keys(), np.int64, len(row)), counts / counts.sum()
        self._shares[item] = shared
        return shared


class Markov:
    """
    Steps from a session's newest items to the item after them.

    First-order chains (as in Rendle et al., WWW 2010, without the factors), mixed over the newest
    *steps* items, each *fade* times the weight of the one after it.
    """

    def __init__(
        self,
        popularity: Popularity,
        half_life_days: float | None = HALF_LIFE_DAYS,
        steps: int = 3,
        fade: float = 0.3,
    ) -> None:
        self._popularity = popularity
        self._fading = Fading(half_life_days)
        self._steps = steps
        self._fade = fade
        self._follows = Pairs()
        self._last: dict[int, int] = {}

    def learn(self, session: int, item: int, time_ms: int) -> None:
        """Count a step to another item."""
        last = self._last.get(session)
        if last is not None and last != item:
            self._follows.add(last, item, self._fading.weight(time_ms))
        self._last[session] = item

    def scores(self, session: int, recent: list[int]) -> Scores:
        """A mixture of the chains' next-item distributions."""
        shares = self._popularity.scores(session, recent)
        newest = reversed(recent[-self._steps :])
        return _with_popularity(self._follows.mixed(newest, self._fade, len(shares)), shares)


class CoVisitation:
    """
    Items met in one session, nearer ones counting more.

    Item-to-item counts as in Linden et al., IEEE Internet Computing 2003, discounted by distance: a
    pair *d* items apart, at most *window*, counts 1/d, and *backward* times that against time.
    """

    def __init__(
        self,
        popularity: Popularity,
        half_life_days: float | None = HALF_LIFE_DAYS,
        window: int = 10,
        backward: float = 0.3,
        fade: float = 0.5,
    ) -> None:
        self._popularity = popularity
        self._fading = Fading(half_life_days)
        self._backward = backward
        self._fade = fade
        self._pairs = Pairs()
        self._recent: defaultdict[int, deque[int]] = defaultdict(lambda: deque(maxlen=window))

    def learn(self, session: int, item: int, time_ms: int) -> None:
        """Count the pairs that this event makes with the session's items before it."""
        recent = self._recent[session]
        if recent and recent[-1] == item:
            return
        weight = self._fading.weight(time_ms)
        for distance, other in enumerate(reversed(recent), start=1):
            if other != item:
                self._pairs.add(other, item, weight / distance)
                if self._backward:
                    self._pairs.add(item, other, self._backward * weight / distance)
        recent.append(item)

    def scores(self, session: int, recent: list[int]) -> Scores:
        """The neighbours of the session's items, each further back *fade* times the one after."""
        shares = self._popularity.scores(session, recent)
        newest = dict.fromkeys(reversed(recent))
        return _with_popularity(self._pairs.mixed(newest, self._fade, len(shares)), shares)


class VmisKnn:
    """
    Sessions like this one, and what they held (Kersbergen et al., Serenade, SIGMOD 2022, alg. 1).

    Of the *sampled* newest sessions that share an item with this one's last *steps*, the
    *neighbours* most alike vote for their items, by likeness, by how recent the newest shared item
    is (1 - 0.1 a step back), and by the items' rarity.
    """

    def __init__(
        self,
        popularity: Popularity,
        sampled: int = 1500,
        neighbours: int = 300,
        steps: int = 8,
    ) -> None:
        self._popularity = popularity
        self._sampled = sampled
        self._neighbours = neighbours
        self._steps = steps
        self._numbers: dict[int, int] = {}  # of a session, by its first event
        self._members: list[list[int]] = []  # by that number
        self._holders: defaultdict[int, array[int]] = defaultdict(lambda: array("q"))
        self._likeness = np.zeros(0)  # by number; all zero between two questions
        self._matched = np.zeros(0, np.int64)  # by number, steps back to the newest shared item
        self._held = np.zeros(len(popularity.scores(0, [])), np.int64)  # sessions of each item

    def learn(self, session: int, item: int, time_ms: int) -> None:
        """Note that the session holds the item."""
        number = self._numbers.setdefault(session, len(self._members))
        if number == len(self._members):
            self._members.append([])
        if item in self._members[number]:
            return
        self._members[number].append(item)
        holders = self._holders[item]
        holders.append(number)
        self._held[item] += 1
        if len(holders) > 2 * self._sampled:
            del holders[: -self._sampled]

    def scores(self, session: int, recent: list[int]) -> Scores:
        """The votes of the nearest sessions."""
        shares = self._popularity.scores(session, recent)
        newest = list(dict.fromkeys(reversed(recent)))[: self._steps]  # newest first
        numbers, votes = self._nearest(self._numbers.get(session), newest)
        members = [self._members[number] for number in numbers.tolist()]
        items = np.array([item for one in members for item in one], np.int64)
        weights = np.repeat(votes, [len(one) for one in members])
        found = np.zeros_like(shares)
        np.add.at(found, items, weights * self._rarity(items))
        return _with_popularity(found, shares)

    def _nearest(
        self, own: int | None, newest: list[int]
    ) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """The numbers of the most alike sessions, and what each one's vote weighs."""
        if len(self._likeness) < len(self._members):
            self._likeness = np.zeros(2 * len(self._members))
            self._matched = np.zeros(2 * len(self._members), np.int64)
        held = [np.array(self._holders[item][-self._sampled :], np.int64) for item in newest]
        for step, numbers in reversed(list(enumerate(held))):
            self._likeness[numbers] += 1 - step / len(newest)
            self._matched[numbers] = step  # the newest shared item is written last
        if own is not None:
            self._likeness[own] = 0
        numbers = np.flatnonzero(self._likeness[: len(self._members)])[-self._sampled :]
        likeness = self._likeness[numbers]
        for shared in held:
            self._likeness[shared] = 0
        if len(numbers) > self._neighbours:
            best = np.argpartition(-likeness, self._neighbours)[: self._neighbours]
            numbers, likeness = numbers[best], likeness[best]
        return numbers, likeness * (1 - 0.1 * self._matched[numbers])

    def _rarity(self, items: NDArray[np.int64]) -> NDArray[np.float64]:
        rarity: NDArray[np.float64] = np.log(len(self._members) / np.maximum(self._held[items], 1))
        return rarity


class OwnItems:
    """The session's own items, newest first: shoppers go back to what they have looked at."""

    def __init__(self, popularity: Popularity) -> None:
        self._popularity = popularity

    def learn(self, session: int, item: int, time_ms: int) -> None:
        """Nothing: the session itself is all it takes."""

    def scores(self, session: int, recent: list[int]) -> Scores:
        """One over the number of steps back."""
        shares = self._popularity.scores(session, recent)
        found = np.zeros_like(shares)
        for step, item in enumerate(dict.fromkeys(reversed(recent)), start=1):
            found[item] = 1 / step
        return _with_popularity(found, shares)


def _row() -> defaultdict[int, float]:
    return defaultdict(float)


def _with_popularity(found: Scores, shares: Scores) -> Scores:
    total = found.sum()
    if not total:
        return shares
    mixed: Scores = (1 - POPULARITY_SHARE) / total * found + POPULARITY_SHARE * shares
    return mixed
