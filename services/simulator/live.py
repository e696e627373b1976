"""Shoppers who are in the shop right now: the same world, going on in real time."""

import heapq
import itertools
import random
from collections.abc import Iterator
from typing import Any

from services.simulator.world import Moment, SlateOf, World

MEAN_GAP_S = 12.5  # between two events of one live shopper at their own pace


class LiveShoppers:
    """
    Yields events in order of time, *rate* a second on average, for ever.

    Args:
        world: Where they are.
        users: How many different people may come; they are those of the history.
        rate: Events per second, all together.
        hurry: Shoppers act so many times faster than people would, so that few make a crowd.
        run: Goes into event ids; another for each run.
        slate_of: What has been pushed to a user, if anything.
        guest: A shopper who is always there and acts every *guest_gap_s* or so.
    """

    def __init__(
        self,
        world: World,
        users: int,
        *,
        rate: float,
        run: str,
        start_s: float,
        slate_of: SlateOf | None = None,
        hurry: float = 4.0,
        guest: int | None = None,
        guest_gap_s: float = 2.0,
    ) -> None:
        self._world, self._users, self._run = world, users, run
        self._rng = random.Random(f"live {world.seed} {run}")  # noqa: S311
        self._slate_of = slate_of
        self._hurry = hurry
        self._guest, self._guest_gap_s = guest, guest_gap_s
        self._numbers = itertools.count()
        self._order = itertools.count()
        # due time, order, shopper number, session, time of its last event in its own pace
        self._queue: list[tuple[float, int, int, Iterator[Moment], int]] = []
        crowd = max(1, round(rate * MEAN_GAP_S / hurry))
        for _ in range(crowd):
            self._enter(start_s + self._rng.random() * MEAN_GAP_S / hurry)
        if guest is not None:
            self._enter(start_s + guest_gap_s, guest)

    def _enter(self, at_s: float, number: int | None = None) -> None:
        if number is None:
            # The same few come often: squaring favours small numbers.
            number = int(self._rng.random() ** 2 * self._users)
        start_ms = int(at_s * 1000)
        session = self._world.session(
            self._world.shopper(number), start_ms, self._rng, self._slate_of
        )
        heapq.heappush(self._queue, (at_s, next(self._order), number, session, start_ms))

    def next_due_s(self) -> float:
        """When the next event is due, wall clock."""
        return self._queue[0][0]

    def take(self, now_s: float) -> dict[str, Any] | None:
        """
        The event that is due, stamped with *now_s*; None if none is.

        ``event_timestamp`` is an integer in epoch ms: the caller formats it.
        """
        if self._queue[0][0] > now_s:
            return None
        due_s, _, number, session, last_ms = heapq.heappop(self._queue)
        moment = next(session, None)
        if moment is None or moment[0] - last_ms > 3_600_000:  # the end, or a refund days later
            self._enter(due_s + self._gap_s(number, 2000), self._guest_or(number))
            return self.take(now_s)
        at_ms, fields = moment
        due_s += self._gap_s(number, at_ms - last_ms)
        heapq.heappush(self._queue, (due_s, next(self._order), number, session, at_ms))
        event_id = f"live-{self._run}-{next(self._numbers)}"
        return {"event_id": event_id, "event_timestamp": int(now_s * 1000), **fields}

    def _guest_or(self, number: int) -> int | None:
        return number if number == self._guest else None

    def _gap_s(self, number: int, gap_ms: int) -> float:
        if number == self._guest:
            return self._guest_gap_s if gap_ms > 100 else 0.0
        return gap_ms / 1000 / self._hurry
