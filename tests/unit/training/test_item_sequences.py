"""Plain sequences: what a benchmark's network learns, and that its scores say it."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from services.training.item_sequences import train_on_sequences, user_vectors
from tests.tiny_model import TINY

ITEMS = 12
WALKS = [(np.arange(start, start + 6) % ITEMS) + 1 for start in range(ITEMS)] * 6


@pytest.mark.parametrize("full_softmax_below", [1000, 1])
def test_the_next_step_of_a_walk_is_foretold(full_softmax_below: int):
    """Over all items and over a sample: both must learn, with items numbered as they were given."""
    options = replace(TINY, epochs=30, full_softmax_below=full_softmax_below, negatives=8)

    network = train_on_sequences(WALKS, ITEMS, options)
    users = user_vectors(network, [np.array([2, 3, 4]), np.array([12]), np.array([9, 10])])

    best = (users @ network.item_vectors().detach().numpy().T).argmax(axis=1) + 1
    assert best.tolist() == [5, 1, 11]


def test_an_item_newer_than_the_network_is_ranked_by_its_text():
    """A newcomer whose text is item 5's belongs where item 5 is likely, and only there."""
    texts = np.eye(ITEMS, dtype=np.float32)
    options = replace(TINY, epochs=30, delta_dropout=0.3)

    network = train_on_sequences(WALKS, ITEMS, options, text_vectors=texts)
    users = user_vectors(network, [np.array([2, 3, 4]), np.array([6, 7, 8])])
    newcomer = network.vectors_from_text(torch.from_numpy(texts[4:5])).detach().numpy()[0]

    scores = users @ network.item_vectors().detach().numpy().T  # (2, V)
    places = (scores > (users @ newcomer)[:, None]).sum(axis=1)
    assert places[0] <= 1
    assert places[1] > 1
