"""Lists and ranks from scores."""

import numpy as np
import pytest

from services.evaluation.judging import best_items, hidden_table, judge
from services.evaluation.metrics import NO_ITEM

SCORES = np.array([[0.1, 0.9, 0.5, 0.7]], np.float32)


def test_hidden_items_are_not_in_the_list_and_do_not_count_as_ranks() -> None:
    """Masking a history moves what is behind it up."""
    judged = judge(best_items(SCORES), np.array([[2]]), hidden_table(np.array([[1, -1]]), 4))

    assert judged.lists[:, :3].tolist() == [[3, 2, 0]]
    assert judged.ranks.tolist() == [[1]]


def test_a_hidden_item_is_no_hit_even_if_it_is_right() -> None:
    """And the list says that it has fewer places."""
    judged = judge(best_items(SCORES), np.array([[1, -1]]), hidden_table(np.array([[1]]), 4))

    assert judged.ranks.tolist() == [[NO_ITEM, NO_ITEM]]
    assert judged.lists.tolist() == [[3, 2, 0, -1]]


def test_a_score_that_is_no_number_is_refused() -> None:
    """A diverged network must not be ranked at random."""
    with pytest.raises(ValueError, match="finite"):
        best_items(np.array([[np.nan, 1.0]], np.float32))
