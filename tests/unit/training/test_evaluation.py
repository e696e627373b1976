"""Metrics and targets against values worked out by hand."""

import math

import numpy as np
import pytest

from services.training.evaluation import baseline_ranks, find_targets, quality
from services.training.log import EventLog

MINUTE_MS = 60_000


def a_log(*events: tuple[int, int, int, int], sessions: list[int] | None = None) -> EventLog:
    """A log of (user, item, event code, minute)."""
    users, items, types, minutes = (np.array(column) for column in zip(*events, strict=True))
    ids = tuple(str(item) for item in range(items.max() + 1))
    session = np.array(sessions) if sessions else np.full(len(users), -1)
    prices, contexts = np.full(len(users), np.nan, np.float32), np.zeros(len(users), np.int64)
    return EventLog(ids, users, items, types, minutes * MINUTE_MS, session, prices, contexts)


def test_metrics_are_those_of_the_textbook():
    """Ranks 1, 3, 11 and 25, counted from one."""
    got = quality(np.array([0, 2, 10, 24]))

    assert got.hr_at_20 == pytest.approx(3 / 4)
    assert got.mrr_at_20 == pytest.approx((1 + 1 / 3 + 1 / 11) / 4)
    assert got.ndcg_at_10 == pytest.approx((1 + 1 / math.log2(4)) / 4)


def test_only_a_quick_step_to_another_item_in_the_same_session_is_a_target():
    """The protocol that the published figures use."""
    log = a_log(
        (1, 0, 2, 0),
        (1, 0, 2, 1),  # the same item
        (1, 1, 2, 2),  # a target
        (2, 3, 2, 3),  # a user's first event
        (1, 2, 8, 4),  # a checkout is none
        (1, 3, 9, 5),  # a purchase is
        (1, 4, 2, 36),  # 31 minutes later
        (1, 5, 2, 37),  # another session
        sessions=[1, 1, 1, 2, 1, 1, 1, 9],
    )

    targets = find_targets(log, from_ms=0)

    assert targets.at.tolist() == [2, 5]
    assert targets.before.tolist() == [1, 4]


def test_targets_before_the_held_out_part_do_not_count():
    """Training has seen them."""
    log = a_log((1, 0, 2, 0), (1, 1, 2, 1), (1, 2, 2, 2))

    assert find_targets(log, from_ms=2 * MINUTE_MS).at.tolist() == [2]


def test_the_baselines_know_only_what_came_before():
    """A baseline that has seen the answer would make the model look bad, not good."""
    log = a_log(
        (1, 0, 2, 0),
        (1, 1, 2, 1),  # 0 -> 1 is seen
        (2, 2, 2, 2),
        (2, 2, 2, 3),  # 2 is the most popular
        (3, 0, 2, 4),
        (3, 1, 2, 5),  # the target: the chain says 1 first; by popularity it is behind 2 and 0
    )
    targets = find_targets(log, from_ms=5 * MINUTE_MS)

    popular, markov = baseline_ranks(log, targets, half_life_days=7)

    assert markov.tolist() == [0]
    assert popular.tolist() == [2]
