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
VECTORS = np.ones((2, 4), np.float32)


@pytest.mark.parametrize(
    ("keys", "scores", "vectors"),
    [
        (KEYS[:1], SCORES[:1], VECTORS),  # a row is missing
        (KEYS[:, :0], SCORES[:, :0], VECTORS),  # silently empty
        (KEYS, SCORES[:, :2], VECTORS),
        (KEYS.astype(np.int32), SCORES, VECTORS),
        (KEYS, np.full_like(SCORES, np.nan), VECTORS),
        (KEYS, SCORES, VECTORS[:1]),
        (KEYS, SCORES, np.full_like(VECTORS, np.nan)),
    ],
)
def test_an_answer_that_cannot_be_used_is_no_answer(keys, scores, vectors):
    """The slate then comes from the live sources, and says so."""
    with pytest.raises(RankerUnavailable, match="malformed"):
        _checked({"item_keys": keys, "scores": scores, "user_vector": vectors}, rows=2)


def test_a_model_without_user_vectors_is_believed():
    """Other people's models promise items and scores only."""
    ranked = _checked({"item_keys": KEYS, "scores": SCORES}, rows=2)

    assert ranked.user_vectors is None
