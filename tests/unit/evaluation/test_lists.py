"""What slates are like, on shops small enough to work it out."""

import numpy as np
import pytest

from services.evaluation.lists import Shop, category_shares, of_lists

HISTORY = np.array([[0, 0, 1]])


def a_shop() -> Shop:
    """Users 0 and 1 both act on items 0 and 1, user 2 on item 2; items 3 and 4 are untouched."""
    users, items = np.array([0, 0, 1, 1, 2]), np.array([0, 1, 0, 1, 2])
    return Shop.of(users, items, 5, category_shares([("a",), ("a", "b"), ("b",), (), ()]))


def test_coverage_novelty_and_the_long_tail() -> None:
    """Shares of 3 users plus one: items 0, 1 in 3/4, item 2 in 2/4, item 3 in 1/4."""
    found = of_lists(np.array([[0, 3], [0, 2]]), a_shop(), np.array([[-1], [-1]]), k=2)

    assert found["coverage@2"] == pytest.approx(3 / 5)
    bits = [-np.log2(3 / 4), 2, -np.log2(3 / 4), 1]
    assert found["novelty@2"] == pytest.approx(np.mean(bits))
    assert found["long_tail@2"] == pytest.approx(2 / 4)  # the head is one item of five, item 0


def test_items_of_the_same_users_are_alike() -> None:
    """A list of 0 and 1 has no variety, one of 0 and 2 has."""
    alike = of_lists(np.array([[0, 1]]), a_shop(), HISTORY, k=2)["diversity@2"]
    different = of_lists(np.array([[0, 2]]), a_shop(), HISTORY, k=2)["diversity@2"]

    assert alike == pytest.approx(0, abs=1e-6)
    assert different > 0.7


def test_a_list_of_the_historys_categories_is_calibrated() -> None:
    """Steck's divergence, by hand: the history is 5/6 a and 1/6 b."""
    same = of_lists(np.array([[0, 0, 1]]), a_shop(), HISTORY, k=3)["calibration@3"]
    other = of_lists(np.array([[2, -1, -1]]), a_shop(), HISTORY, k=3)["calibration@3"]

    assert same == pytest.approx(0, abs=1e-6)
    mixed_a, mixed_b = 0.01 * 5 / 6, 0.99 + 0.01 / 6
    assert other == pytest.approx(
        5 / 6 * np.log(5 / 6 / mixed_a) + 1 / 6 * np.log(1 / 6 / mixed_b), rel=1e-5
    )


def test_without_categories_there_is_no_calibration() -> None:
    """Most logs come without a catalogue."""
    assert category_shares([(), ()]) is None
