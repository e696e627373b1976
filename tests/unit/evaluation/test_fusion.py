"""Fusion by rank and by weight."""

import numpy as np
import pytest

from services.evaluation.fusion import (
    LogLinear,
    log_shares,
    log_softmax,
    reciprocal_rank_fusion,
)

NOTHING_HIDDEN = np.full((200, 1), -1)


def test_reciprocal_ranks_are_summed() -> None:
    """Items ranked by one method only, by both, and by none."""
    first, second = np.array([[0, 1]]), np.array([[1, 2]])

    fused = reciprocal_rank_fusion([first, second], catalogue=4, constant=5)

    assert fused[0] == pytest.approx([1 / 6, 1 / 7 + 1 / 6, 1 / 7, 0])


def test_weights_go_to_the_method_that_is_right() -> None:
    """One method knows the answer in half of the cases, the other is noise."""
    rng = np.random.default_rng(0)
    fusion = LogLinear(2)
    for _ in range(10):
        right = rng.integers(0, 30, 200)
        knows = rng.random((200, 30))
        knows[np.arange(200), right] += 2 * (rng.random(200) < 0.5)
        logs = [log_shares(one.astype(np.float32)) for one in (knows, rng.random((200, 30)))]
        fusion.learn(logs, right, NOTHING_HIDDEN)

    assert fusion.weights[0] > 1
    assert abs(fusion.weights[1]) < 0.1


def test_the_weights_found_are_the_likeliest() -> None:
    """Drawn from a model with weights 0.7 and 0.4, they come back."""
    rng = np.random.default_rng(1)
    fusion = LogLinear(2)
    for _ in range(40):
        logs = [log_softmax(rng.normal(0, 2, (200, 20)).astype(np.float32)) for _ in range(2)]
        logits = 0.7 * logs[0] + 0.4 * logs[1]
        noise = rng.gumbel(size=logits.shape)
        fusion.learn(logs, (logits + noise).argmax(axis=1), NOTHING_HIDDEN)

    assert fusion.weights == pytest.approx([0.7, 0.4], abs=0.05)


def test_hidden_items_teach_nothing() -> None:
    """An item that cannot be next does not count against a method that likes it."""
    likes_hidden = np.log(np.array([[0.98, 0.01, 0.01]], np.float32))
    fusion = LogLinear(1)

    fusion.learn([likes_hidden], np.array([1]), np.array([[0]]))

    assert fusion.weights == pytest.approx([1.0])


def test_who_has_seen_everything_teaches_nothing() -> None:
    """All items hidden: there is no answer to learn from, and no weight becomes NaN."""
    logs = np.log(np.array([[0.5, 0.3, 0.2]], np.float32))
    fusion = LogLinear(1)

    fusion.learn([logs], np.array([1]), np.array([[0, 1, 2]]))

    assert fusion.weights == pytest.approx([1.0])
