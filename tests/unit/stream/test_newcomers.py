"""Newcomers find their place among ranked items."""

import numpy as np

from stream.newcomers import Newcomers, with_newcomers
from stream.ranking import Ranked


def ranked(*vectors: list[float]) -> Ranked:
    """Items 1 to 4 with scores 4, 3, 2, 1 for each user."""
    rows = len(vectors)
    return Ranked(
        np.tile(np.arange(1, 5), (rows, 1)),
        np.tile(np.array([4, 3, 2, 1], np.float32), (rows, 1)),
        np.array(vectors, np.float32),
    )


NEWCOMERS = Newcomers(np.array([10, 11, 12]), np.array([[3.5, 0], [0, 9], [-1, -1]], np.float32))


def test_a_newcomer_stands_where_its_score_puts_it():
    """It competes with the rest: neither pushed, nor an afterthought."""
    answer = with_newcomers(ranked([1, 0], [0, 1]), NEWCOMERS)

    assert answer.item_keys.tolist() == [[1, 10, 2, 3], [11, 1, 2, 3]]
    assert answer.scores.tolist() == [[4, 3.5, 3, 2], [9, 4, 3, 2]]


def test_a_user_without_a_vector_keeps_their_row():
    """Zero times anything is a tie between all newcomers."""
    answer = with_newcomers(ranked([0, 0], [1, 0]), NEWCOMERS)

    assert answer.item_keys[0].tolist() == [1, 2, 3, 4]
    assert answer.item_keys[1].tolist() == [1, 10, 2, 3]


def test_more_newcomers_than_places():
    """Only the best of them are sorted."""
    rng = np.random.default_rng(0)
    many = Newcomers(np.arange(100, 1100), rng.normal(size=(1000, 2)).astype(np.float32))

    answer = with_newcomers(ranked([3, 4], [-1, 2]), many)

    everything = np.concatenate([[[4, 3, 2, 1]] * 2, answer.user_vectors @ many.vectors.T], axis=1)
    np.testing.assert_allclose(answer.scores, -np.sort(-everything, axis=1)[:, :4], rtol=1e-6)
    assert np.isfinite(answer.scores).all()


def test_a_model_that_gives_no_user_vectors_has_no_newcomers():
    """Other people's models need not know of them."""
    plain = Ranked(np.ones((1, 2), np.int64), np.ones((1, 2), np.float32))

    assert with_newcomers(plain, NEWCOMERS) is plain
