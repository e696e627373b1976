"""What training says of quality, against values worked out by hand."""

import numpy as np

from services.training.evaluation import baseline_ranks, find_targets
from services.training.log import EventLog

MINUTE_MS = 60_000


def a_log(*events: tuple[int, int, int, int], sessions: list[int] | None = None) -> EventLog:
    """A log of (user, item, event code, minute)."""
    users, items, types, minutes = (np.array(column) for column in zip(*events, strict=True))
    ids = tuple(str(item) for item in range(items.max() + 1))
    session = np.array(sessions) if sessions else np.full(len(users), -1)
    prices, contexts = np.full(len(users), np.nan, np.float32), np.zeros(len(users), np.int64)
    return EventLog(ids, users, items, types, minutes * MINUTE_MS, session, prices, contexts)


def test_the_baselines_know_only_what_came_before():
    """A baseline that has seen the answer would make the model look bad, not good."""
    log = a_log(
        (1, 0, 2, 0),
        (1, 1, 2, 1),  # 0 -> 1 is seen
        (2, 2, 2, 2),
        (2, 2, 2, 3),  # 2 is the most popular
        (3, 0, 2, 4),
        (
            3,
            1,
            2,
            5,
        ),  # the target: the chain says 1 first, popularity 2 (0 is current)
    )
    targets = find_targets(log, from_ms=5 * MINUTE_MS)

    popular, markov = baseline_ranks(log, targets, half_life_days=7)

    assert markov.tolist() == [0]
    assert popular.tolist() == [1]
