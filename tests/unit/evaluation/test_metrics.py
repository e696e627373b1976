"""Metrics against ranx, which others have checked, and against values worked out by hand."""

import importlib
import math
import warnings
from collections.abc import Iterator
from types import ModuleType

import numpy as np
import pytest
from numpy.typing import NDArray

from services.evaluation.metrics import NO_ITEM, means, per_target, per_target_of

QUERIES, CATALOGUE, RIGHT, LISTED = 60, 80, 7, 25


@pytest.fixture(scope="module")
def answers() -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Lists ``(Q, LISTED)``, right items ``(Q, RIGHT)`` of which some are padding, their ranks."""
    rng = np.random.default_rng(3)
    lists = np.stack([rng.permutation(CATALOGUE)[:LISTED] for _ in range(QUERIES)])
    right = np.stack([rng.permutation(CATALOGUE)[:RIGHT] for _ in range(QUERIES)])
    right[np.arange(RIGHT) >= rng.integers(1, RIGHT + 1, (QUERIES, 1))] = -1
    found = (right[:, :, None] == lists[:, None, :]) & (right != -1)[:, :, None]
    ranks = np.where(found.any(axis=2), found.argmax(axis=2), NO_ITEM)
    return lists, right, ranks


@pytest.fixture(scope="module")
def ranx() -> Iterator[ModuleType]:
    """The library, interpreted: compiling its metrics takes minutes, these few lists none."""
    with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        patch.setenv("NUMBA_DISABLE_JIT", "1")
        yield importlib.import_module("ranx")


def test_metrics_are_those_of_ranx(answers, ranx: ModuleType) -> None:
    """The issue's oracle; with several right items for a query, as in a time split."""
    lists, right, ranks = answers
    qrels = ranx.Qrels(
        {f"q{q}": {f"i{item}": 1 for item in row if item >= 0} for q, row in enumerate(right)}
    )
    run = ranx.Run(
        {
            f"q{q}": {f"i{item}": float(LISTED - place) for place, item in enumerate(row)}
            for q, row in enumerate(lists)
        }
    )
    names = {one: one for one in ("recall", "precision", "f1", "mrr", "ndcg")} | {"hr": "hit_rate"}
    theirs = {f"{our}@{k}": f"{their}@{k}" for our, their in names.items() for k in (5, 10, 20)}

    found = means(per_target_of(ranks, (right >= 0).sum(axis=1)))

    expected = ranx.evaluate(qrels, run, list(theirs.values()))
    assert {our: expected[their] for our, their in theirs.items()} == pytest.approx(
        {our: found[our] for our in theirs}, abs=1e-9
    )


def test_metrics_of_one_right_item_are_those_of_the_textbook() -> None:
    """Ranks 1, 3, 11 and 25, counted from one."""
    found = means(per_target(np.array([0, 2, 10, 24])))

    assert found["hr@20"] == found["recall@20"] == pytest.approx(3 / 4)
    assert found["accuracy@1"] == pytest.approx(1 / 4)
    assert found["precision@10"] == pytest.approx(2 / 4 / 10)
    assert found["mrr@20"] == pytest.approx((1 + 1 / 3 + 1 / 11) / 4)
    assert found["ndcg@10"] == pytest.approx((1 + 1 / math.log2(4)) / 4)


def test_what_is_not_ranked_is_a_miss_at_any_depth() -> None:
    """A method that lists three items must not gain by it."""
    found = means(per_target(np.array([NO_ITEM])))

    assert set(found.values()) == {0.0}


def test_nothing_to_judge_on_is_zero_and_not_nan() -> None:
    """A table may be of a split without targets."""
    assert set(means(per_target(np.zeros(0, np.int64))).values()) == {0.0}
