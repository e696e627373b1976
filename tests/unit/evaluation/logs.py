"""Logs for tests, written down event by event."""

from collections.abc import Sequence

import numpy as np

from services.training.log import EventLog

MINUTE_MS = 60_000
VIEW, CART, CHECKOUT, PURCHASE = 2, 5, 8, 9


def a_log(*events: tuple[int, int, int, float], sessions: Sequence[int] = ()) -> EventLog:
    """A log of (user, item, event code, minute)."""
    users, items, types, minutes = (np.array(column) for column in zip(*events, strict=True))
    count = len(events)
    return EventLog(
        item_ids=tuple(f"i{item}" for item in range(items.max() + 1)),
        users=users,
        items=items,
        types=types,
        times_ms=(minutes * MINUTE_MS).astype(np.int64),
        sessions=np.array(sessions) if sessions else np.full(count, -1),
        prices=np.full(count, np.nan, np.float32),
        contexts=np.zeros(count, np.int64),
    )
