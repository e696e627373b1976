"""What the network learns from, and that nothing is learnt twice or never."""

from dataclasses import replace

import numpy as np
import pytest

from services.training.examples import batches, examples, sequences, target_weights, windows
from services.training.options import TrainingOptions
from services.training.pipeline import train
from services.training.vocabulary import make_vocabulary
from stream.event_types import EventType
from stream.keys import item_key
from tests.tiny_model import TINY, tiny_log

IDS = [f"item-{number}" for number in range(9)]


@pytest.mark.parametrize("length", [4, 7, 50])
def test_every_token_but_a_users_first_is_predicted_once(length: int):
    """Overlapping windows must not count their overlap twice."""
    rows = np.repeat([0, 3, 4], [1, 2, 61])
    cut = windows(rows, length)

    predicted = [
        token
        for scored, end in zip(cut.scored, cut.ends, strict=True)
        for token in range(scored, end)
    ]
    assert sorted(predicted) == [2, *range(4, 64)]
    assert (cut.ends - cut.starts - 1 <= length).all()


def test_a_batch_pairs_each_input_with_what_followed():
    """Off by one here and the network learns to repeat its input."""
    log = tiny_log(IDS, users=5, events=8)
    found = sequences(log, np.arange(1, 10))
    drawn = batches(examples(found, replace(TINY, tokens=4)), 16, np.random.default_rng(0))

    seen = 0
    for batch in drawn:
        counted = batch.weights > 0
        seen += counted.sum()
        followers = batch.tokens.items[counted] % 9 + 1  # the log walks through the items in order
        assert batch.targets[counted].tolist() == followers.tolist()
    assert seen == 5 * 7


def test_what_is_taken_back_is_seen_but_never_a_target():
    """Recommending what was just removed or disliked would be the one sure mistake."""
    kinds = [
        EventType.CLICK,
        EventType.ADD_TO_CART,
        EventType.PURCHASE,
        EventType.CHECKOUT,
        EventType.REMOVE_FROM_CART,
        EventType.DISLIKE,
        EventType.REFUND,
    ]
    log = tiny_log(IDS, users=1, events=8)
    log = replace(log, types=np.array([EventType.VIEW, *kinds], np.int64))
    options = TrainingOptions(cart_weight=2, purchase_weight=3, checkout_weight=0.5)

    found = sequences(log, np.arange(1, 10))
    weights = target_weights(found, options)

    assert len(found.rows) == 8
    assert weights.tolist() == pytest.approx([0, 1, 2, 3, 0.5, 0, 0, 0], rel=1e-3)


def test_of_two_ids_with_one_key_the_smaller_has_it():
    """The same rule as in the catalogue, so that a slate names the same item."""
    log = tiny_log(["b", "a", "c"])
    keys = np.array([7, 7, 9])

    vocabulary, indices = make_vocabulary(log, keys, half_life_days=7)

    assert vocabulary.item_ids == ("a", "c")
    assert indices.tolist() == [1, 1, 2]


def test_the_same_seed_gives_the_same_network():
    """A figure that cannot be had again proves nothing."""
    log = tiny_log(IDS, users=20, events=6)
    first, second = (
        train(log, TrainingOptions(epochs=2, least_steps=0, dim=16), holdout_from_ms=10**15)
        for _ in range(2)
    )

    assert first.vocabulary.item_keys.tolist() == sorted(item_key(one) for one in IDS)
    for one, other in zip(first.network.parameters(), second.network.parameters(), strict=True):
        assert one.equal(other)


def test_a_large_catalogue_is_sampled_and_still_learnt():
    """Full softmax over a million items would not end."""
    options = replace(TINY, full_softmax_below=1, negatives=16)
    log = tiny_log([f"item-{number}" for number in range(40)])

    trained = train(log, options, holdout_from_ms=int(log.times_ms[-1]) - 60_000)

    assert trained.qualities["ranker"].mrr_at_20 > trained.qualities["popularity"].mrr_at_20
