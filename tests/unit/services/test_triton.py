"""What is sent to Triton, and which answers are believed."""

import numpy as np
import pytest

from services.models.triton import _checked, pad
from stream.ranking import RankerInput, RankerUnavailable


def a_history(*keys: int) -> RankerInput:
    ages_s = np.arange(len(keys), dtype=np.float32)[::-1]
    nothing = np.zeros(len(keys), np.int32)
    types = np.full(len(keys), 3, np.int32)
    return RankerInput(np.array(keys, np.int64), types, ages_s, nothing, nothing)


def test_rows_are_padded_on_the_left_and_keep_the_newest():
    """The model reads the newest interaction from the last column."""
    tensors = pad([a_history(1, 2), a_history(), a_history(1, 2, 3, 4)], length=3)

    assert tensors["item_keys"].tolist() == [[0, 1, 2], [0, 0, 0], [2, 3, 4]]
    assert tensors["ages_s"].tolist() == [[0, 1, 0], [0, 0, 0], [2, 1, 0]]
    assert tensors["event_types"].dtype == np.int32


KEYS, SCORES = np.ones((2, 3), np.int64), np.ones((2, 3), np.float32)


@pytest.mark.parametrize(
    ("keys", "scores"),
    [
        (None, SCORES),
        (KEYS, None),
        (KEYS[:1], SCORES[:1]),  # a row is missing
        (KEYS[:, :0], SCORES[:, :0]),  # silently empty
        (KEYS, SCORES[:, :2]),
        (KEYS.astype(np.int32), SCORES),
        (KEYS, np.full_like(SCORES, np.nan)),
    ],
)
def test_an_answer_that_cannot_be_used_is_no_answer(keys, scores):
    """The slate then comes from the live sources, and says so."""
    with pytest.raises(RankerUnavailable, match="malformed"):
        _checked(keys, scores, rows=2)
