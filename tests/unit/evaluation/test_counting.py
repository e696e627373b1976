"""Counting baselines against scores worked out by hand, and against looking ahead."""

import math

import numpy as np
import pytest

from services.evaluation.counting import (
    DAY_MS,
    POPULARITY_SHARE,
    Counter,
    CoVisitation,
    Markov,
    OwnItems,
    Popularity,
    VmisKnn,
)


def taught(counter: Counter, *events: tuple[int, int], step_ms: int = 1000) -> Counter:
    """The counter after events of (session, item); the popularity behind it stays empty."""
    for number, (session, item) in enumerate(events):
        counter.learn(session, item, number * step_ms)
    return counter


def test_popularity_halves_with_age() -> None:
    """Two old events weigh as much as one that is a half-life newer."""
    counter = taught(Popularity(3, half_life_days=1), (1, 0), (2, 0))
    counter.learn(3, 1, DAY_MS + 500)

    shares = counter.scores(9, [])

    assert shares[0] == pytest.approx(shares[1], rel=1e-4)
    assert shares.sum() == pytest.approx(1)


def test_markov_mixes_the_chains_of_the_newest_items() -> None:
    """After 0 always 1; before that 2, whose chain (always 3) counts `fade` as much."""
    counter = taught(
        Markov(Popularity(4), half_life_days=None, steps=2, fade=0.5),
        (1, 0),
        (1, 1),
        (2, 2),
        (2, 3),
    )

    scores = counter.scores(9, [2, 0])

    assert scores[1] == pytest.approx((1 - POPULARITY_SHARE) * 2 / 3)
    assert scores[3] == pytest.approx((1 - POPULARITY_SHARE) * 1 / 3)


def test_co_visitation_discounts_distance_and_the_way_back() -> None:
    """In one session 0, 1, 2: from 1, forward to 2 is 1, back to 0 is `backward`."""
    counter = taught(
        CoVisitation(Popularity(3), half_life_days=None, backward=0.25), (1, 0), (1, 1), (1, 2)
    )

    scores = counter.scores(9, [1])

    assert scores[2] / scores[0] == pytest.approx(4)


def test_vmis_votes_by_likeness_recency_and_rarity() -> None:
    """The formula of the paper for two neighbours of a session of two items."""
    counter = taught(VmisKnn(Popularity(5)), (1, 0), (1, 2), (2, 1), (2, 3), (3, 4))

    scores = counter.scores(9, [0, 1])  # 1 is the newest

    # Likeness 1 and 1/2, newest shared item 0 and 1 steps back; each item is in one of 3 sessions.
    expected = (1 * 1.0 * math.log(3)) / (0.5 * 0.9 * math.log(3))
    assert scores[3] / scores[2] == pytest.approx(expected)


def test_vmis_does_not_count_the_session_itself() -> None:
    """Its own items would come first, and say nothing."""
    counter = taught(VmisKnn(Popularity(3)), (1, 0), (1, 1))

    assert counter.scores(1, [0, 1]).tolist() == [0, 0, 0]


def test_own_items_are_the_newest_first() -> None:
    """A list that is good for those who go back."""
    scores = OwnItems(Popularity(4)).scores(1, [3, 0, 3, 1])

    assert np.argsort(-scores)[:3].tolist() == [1, 3, 0]


@pytest.mark.parametrize("make", [Markov, CoVisitation, VmisKnn, OwnItems])
def test_without_anything_known_popularity_decides(make: type) -> None:
    """A cold start is answered, and by all in the same way."""
    popularity = Popularity(3)
    taught(popularity, (1, 2), (1, 2), (2, 1))

    scores = make(popularity).scores(9, [])

    assert np.argsort(-scores).tolist() == [2, 1, 0]
