"""Intervals against the central limit theorem, where that holds."""

import numpy as np
import pytest

from services.evaluation.bootstrap import intervals


def test_intervals_of_independent_values_are_those_of_the_normal_distribution() -> None:
    """One target a user: nothing is clustered."""
    values = (np.random.default_rng(1).random(5_000) < 0.3).astype(float)

    low, high = intervals({"hr@10": values}, np.arange(5_000))["hr@10"]

    error = 1.96 * values.std() / np.sqrt(5_000)
    assert low == pytest.approx(values.mean() - error, abs=0.1 * error)
    assert high == pytest.approx(values.mean() + error, abs=0.1 * error)


def test_targets_of_one_user_are_not_taken_for_independent() -> None:
    """Ten copies of each value say no more than one does."""
    values = (np.random.default_rng(1).random(500) < 0.3).astype(float)
    users = np.arange(500)

    once = intervals({"hr@10": values}, users)["hr@10"]
    ten_times = intervals({"hr@10": np.repeat(values, 10)}, np.repeat(users, 10))["hr@10"]

    assert ten_times == pytest.approx(once)


def test_without_targets_there_is_no_interval() -> None:
    """Rather zero than a crash at the end of an hour."""
    nothing = np.zeros(0)

    assert intervals({"hr@10": nothing}, nothing.astype(np.int64)) == {"hr@10": (0.0, 0.0)}
