"""An approximate live count of actions on items: what is recommended while there is no model."""

import heapq
import math
from collections.abc import Iterable

from stream.decode import Accepted
from stream.event_types import EventType
from stream.keys import item_key


class LiveCounts:
    """
    Exponentially decayed counts by item key, in event time.

    Forward decay (Cormode et al., ICDE 2009): an action at time t weighs ``2 ** (t / half_life)``
    against a fixed landmark, so old counts need no touching as time passes. Approximate: each
    worker counts only its own partitions, from its own start.

    Args:
        half_life_s: An action this much older counts half as much.
        refresh_every: The best list is sorted again after this many actions.
    """

    def __init__(self, half_life_s: float = 7 * 86_400, refresh_every: int = 256) -> None:
        self._half_life_ms = half_life_s * 1000
        self._refresh_every = refresh_every
        self._landmark_ms: int | None = None
        self._weights: dict[int, float] = {}
        self._best: list[int] = []
        self._since_refresh = 0

    def add(self, key: int, timestamp_ms: int) -> None:
        """Count one action on *key* at *timestamp_ms* (event time)."""
        if self._landmark_ms is None:
            self._landmark_ms = timestamp_ms
        age = (timestamp_ms - self._landmark_ms) / self._half_life_ms
        if age > _RESCALE_AFTER:
            self._rescale(timestamp_ms)
            age = 0.0
        weight = math.exp2(max(age, -_RESCALE_AFTER))
        self._weights[key] = self._weights.get(key, 0.0) + weight
        self._since_refresh += 1

    def best(self, n: int) -> list[int]:
        """Up to *n* item keys, most counted first."""
        if self._since_refresh >= self._refresh_every or len(self._best) < n:
            by_weight = ((weight, key) for key, weight in self._weights.items())
            self._best = [key for _, key in heapq.nlargest(n, by_weight)]
            self._since_refresh = 0
        return self._best[:n]

    def _rescale(self, landmark_ms: int) -> None:
        # Before the weights overflow, move the landmark; what has faded away is dropped.
        assert self._landmark_ms is not None  # noqa: S101
        fade = math.exp2((self._landmark_ms - landmark_ms) / self._half_life_ms)
        faded = ((key, weight * fade) for key, weight in self._weights.items())
        self._weights = {key: weight for key, weight in faded if weight > 1e-6}
        self._landmark_ms = landmark_ms


_RESCALE_AFTER = 100.0  # half-lives: 2 ** 100 is far from a float's limits


_INTEREST = {
    EventType.VIEW,
    EventType.CLICK,
    EventType.ADD_TO_CART,
    EventType.WISHLIST,
    EventType.CHECKOUT,
    EventType.PURCHASE,
}


def count_live(live: LiveCounts, folded: Iterable[Accepted]) -> None:
    """Count the actions of *folded* that speak for an item."""
    for one in folded:
        if one.event.item_id is not None and one.event.kind in _INTEREST:
            live.add(item_key(one.event.item_id), one.event.timestamp_ms)
