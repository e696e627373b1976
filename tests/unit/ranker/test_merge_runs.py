"""How events become the network's tokens, the same in training and in serving."""

import numpy as np
import pytest

from model_repo.ranker.tokens import NO_GAP, last_tokens, merge_runs, time_bucket


def merged(rows, items, types, times_s, prices=None, contexts=None):
    zeros = [0] * len(rows)
    columns = (rows, items, types, times_s, prices or zeros, contexts or zeros)
    return merge_runs(*(np.array(values) for values in columns))


def test_consecutive_events_on_one_item_become_one_token():
    """A click, a view and a cart on one product are one interest."""
    tokens, rows, first = merged([0, 0, 0, 0], [5, 5, 7, 5], [2, 1, 2, 5], [0.0, 3.0, 10.0, 100.0])

    assert tokens.items.tolist() == [5, 7, 5]
    assert tokens.type_sets.tolist() == [1 << 2 | 1 << 1, 1 << 2, 1 << 5]
    assert tokens.last_types.tolist() == [1, 2, 5]
    assert first.tolist() == [0, 2, 3]
    assert rows.tolist() == [0, 0, 0]


def test_a_gap_counts_from_the_event_before_and_dwell_within_the_run():
    """What the shopper did last is what the time is measured from."""
    tokens, _, _ = merged([0, 0, 0, 1], [5, 5, 7, 7], [2, 2, 2, 2], [0.0, 3.0, 10.0, 20.0])

    assert tokens.gaps.tolist() == [NO_GAP, *time_bucket(np.array([7.0])), NO_GAP]
    assert tokens.dwells.tolist() == time_bucket(np.array([3.0, 0.0, 0.0])).tolist()


def test_a_run_has_the_price_and_context_of_its_last_event():
    """Where the shopper is now says more than where they were."""
    tokens, _, _ = merged([0, 0, 0], [5, 5, 7], [2, 2, 2], [0, 1, 2], [3, 4, 99], [10, 20, 30])

    assert tokens.price_buckets.tolist() == [4, 31]
    assert tokens.contexts.tolist() == [20, 30]


def test_one_users_run_never_joins_the_next_users():
    """Two users may end and begin on the same product."""
    tokens, rows, _ = merged([0, 1], [5, 5], [2, 2], [0.0, 1.0])

    assert tokens.items.tolist() == [5, 5]
    assert rows.tolist() == [0, 1]


@pytest.mark.parametrize("seconds", [-5.0, 0.0, 0.4, 1e12])
def test_every_time_has_a_bucket_and_none_means_no_gap(seconds: float):
    """Clocks go back, and people come back after years."""
    bucket = time_bucket(np.array([seconds]))[0]

    assert NO_GAP < bucket < 64


def test_the_newest_tokens_end_up_on_the_right():
    """Left padding: the last column is the newest, whoever's row it is."""
    tokens, rows, _ = merged([0, 0, 0, 2], [1, 2, 3, 4], [2, 2, 2, 2], [0.0, 1.0, 2.0, 3.0])

    padded = last_tokens(tokens, rows, batch=3, length=2)

    assert padded.items.tolist() == [[2, 3], [0, 0], [0, 4]]


def test_nothing_becomes_no_tokens():
    """A batch of users who are all new."""
    tokens, rows, _ = merged([], [], [], [])

    assert last_tokens(tokens, rows, batch=2, length=3).items.tolist() == [[0] * 3] * 2
