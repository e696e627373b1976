"""EASE against its own optimality condition."""

import numpy as np
import pytest

from services.evaluation.ease import Ease


def test_the_weights_minimise_the_regularised_error() -> None:
    """With the diagonal held at zero, no other weights reconstruct better (Steck, eq. 1)."""
    rng = np.random.default_rng(0)
    interactions = (rng.random((40, 6)) < 0.4).astype(float)
    users, items = np.nonzero(interactions)
    ease = Ease(users, items, catalogue=6, regularization=3.0)

    weights = ease.scores(np.arange(6)[:, None])  # one item each: the rows of B

    gradient = interactions.T @ (interactions @ weights - interactions) + 3.0 * weights
    assert np.diag(weights) == pytest.approx(np.zeros(6))
    np.fill_diagonal(gradient, 0)
    assert gradient == pytest.approx(np.zeros((6, 6)), abs=1e-3)


def test_repeated_and_missing_items_of_a_history_add_nothing() -> None:
    """What a user has done is a set."""
    ease = Ease(np.array([0, 0, 1, 1]), np.array([0, 1, 1, 2]), catalogue=3, regularization=1.0)

    once, twice = ease.scores(np.array([[-1, -1, 0], [0, -1, 0]]))

    assert once == pytest.approx(twice)
