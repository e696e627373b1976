"""What serves is another piece of code than what was trained: it must give the same numbers."""

import numpy as np
import pytest
import torch

from model_repo.ranker.folded import Folded, inputs_of, traced
from model_repo.ranker.network import Network, Shape
from model_repo.ranker.serving import AT_ONCE, Version
from model_repo.ranker.tokens import CONTEXT_BITS, EVENT_TYPES, PRICE_BUCKETS, TIME_BUCKETS, Tokens

ITEMS = 40
SHAPE = Shape(items=ITEMS, dim=16, layers=2, heads=2, tokens=12, copy_heads=2)


def a_network(**changes: int) -> Network:
    torch.manual_seed(5)
    network = Network(Shape(**{**vars(SHAPE), **changes})).eval()
    with torch.no_grad():  # what begins at 0 would agree however it is computed
        for weight in network.parameters():
            weight.add_(0.1 * torch.randn_like(weight))
        network.items.delta.weight[0] = 0
    return network


def some_tokens(*lengths: int) -> Tokens:
    """Tokens with every field in its whole range, padded left to the longest."""
    rng = np.random.default_rng(0)
    seen = np.arange(max(lengths)) >= max(lengths) - np.array(lengths)[:, None]  # (B, T)
    highest = (ITEMS, 1 << EVENT_TYPES, EVENT_TYPES, TIME_BUCKETS, TIME_BUCKETS, PRICE_BUCKETS)
    highest = (*highest, 1 << sum(CONTEXT_BITS))
    columns = [rng.integers(1, limit, seen.shape) * seen for limit in highest]
    return Tokens(*columns)


@pytest.mark.parametrize("changes", [{}, {"layers": 1}, {"copy_heads": 0}])
@pytest.mark.parametrize("lengths", [(12,), (1,), (12, 5, 1), (3, 7)])
def test_it_reads_as_the_network_does(changes: dict[str, int], lengths: tuple[int, ...]):
    """A model that was judged by one formula and serves by another was never judged."""
    network, tokens = a_network(**changes), some_tokens(*lengths)

    with torch.inference_mode():
        users, copies = Folded(network)(inputs_of(tokens))
        expected = network(tuple(torch.from_numpy(one) for one in tokens), last_only=True)

    torch.testing.assert_close(users, expected.users[:, 0], atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(copies, expected.copies[:, 0], atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("lengths", [(1,), (12, 5, 1), (9,) * 40])
def test_a_recording_made_of_one_shape_serves_every_other(lengths: tuple[int, ...]):
    """A trace keeps what it takes for a constant, and a length must not be one."""
    folded, inputs = Folded(a_network()), inputs_of(some_tokens(*lengths))

    with torch.inference_mode():
        replayed = traced(folded, inputs_of(some_tokens(12, 7)))(inputs)
        expected = folded(inputs)

    for one, other in zip(replayed, expected, strict=True):
        torch.testing.assert_close(one, other)


def test_users_are_read_a_few_at_a_time_and_come_back_in_their_places():
    """Large batches are sorted by length; nobody may get another user's slate."""
    keys = np.arange(1, ITEMS + 1, dtype=np.int64)
    version = Version(a_network(), keys, np.ones(ITEMS, np.float32), k=5)
    batch = 2 * AT_ONCE + 7
    rng = np.random.default_rng(1)
    lengths = rng.integers(0, 15, (batch, 1))
    items = rng.choice(keys, (batch, 15)) * (np.arange(15) >= 15 - lengths)
    ages_s = np.tile(np.arange(15, dtype=np.float32)[::-1] * 60, (batch, 1))
    nothing = np.zeros(items.shape, np.int32)

    together = version.rank(items, nothing + 3, ages_s, nothing, nothing)

    for row in range(0, batch, 11):
        asked = (items, nothing + 3, ages_s, nothing, nothing)
        alone = version.rank(*(values[row : row + 1] for values in asked))
        np.testing.assert_allclose(alone.scores[0], together.scores[row], atol=1e-4)
        np.testing.assert_array_equal(alone.item_keys[0], together.item_keys[row])
        np.testing.assert_allclose(alone.user_vectors[0], together.user_vectors[row], atol=1e-5)
