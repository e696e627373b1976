"""The loss over a sample against the one over the whole catalogue, and against hand-made sums."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from model_repo.ranker.network import Network, Shape
from model_repo.ranker.tokens import Tokens
from services.training.examples import Batch
from services.training.losses import LogSumExp, _history_scores, _negatives, weighted_loss
from services.training.options import TrainingOptions
from services.training.trainer import new_network

ITEMS = 12
OPTIONS = TrainingOptions(negatives=4000)
SHARES = np.bincount([3, 7, 9, 2], minlength=ITEMS + 1).astype(np.float32) / 4


def a_network(copy_heads: int) -> Network:
    torch.manual_seed(5)
    shape = Shape(
        items=ITEMS, dim=16, layers=1, heads=2, tokens=6, dropout=0, copy_heads=copy_heads
    )
    return Network(shape).eval()


def a_batch() -> Batch:
    items = np.array([[3, 5, 3, 7], [2, 9, 0, 0]], np.int64)
    targets = np.array([[5, 3, 7, 11], [9, 2, 0, 0]], np.int64)
    weights = np.array([[0, 1, 1, 0.5], [1, 0.2, 0, 0]], np.float32)
    return Batch(Tokens(items, *[np.zeros_like(items)] * 6), targets, weights, SHARES)


def test_weights_count_and_what_weighs_nothing_does_not():
    """A dislike is seen, never predicted."""
    network, batch = a_network(0).requires_grad_(False), a_batch()
    alone = sum(
        weighted_loss(network, replace(batch, weights=np.where(one, batch.weights, 0)), OPTIONS)
        for one in np.eye(8, dtype=bool).reshape(8, 2, 4)[[1, 2, 3, 4, 5]]
    )

    assert float(weighted_loss(network, batch, OPTIONS)) == pytest.approx(float(alone), rel=1e-5)


@pytest.mark.parametrize("copy_heads", [0, 2])
def test_a_large_sample_prefers_what_the_whole_catalogue_prefers(copy_heads: int):
    """Sampling must not move the optimum: the loss falls where the full loss falls."""
    network, batch = a_network(copy_heads), a_batch()
    sampled = replace(OPTIONS, full_softmax_below=0)
    full_gradient, sampled_gradient = (
        torch.autograd.grad(weighted_loss(network, batch, options), network.items.delta.weight)[0]
        for options in (OPTIONS, sampled)
    )

    cosine = torch.cosine_similarity(full_gradient.flatten(), sampled_gradient.flatten(), dim=0)
    assert cosine > 0.85


def test_the_sum_over_negatives_has_the_gradient_that_autograd_finds():
    """It is written by hand to spare memory; a wrong sign would still seem to learn."""
    torch.manual_seed(4)
    users, vectors = torch.randn(5, 3), torch.randn(7, 3)
    log_odds, is_hit = torch.rand(7), torch.rand(5, 7) < 0.3
    is_hit[2] = True  # a row without any negative
    results = []
    for own in (True, False):
        inputs = (users.clone().requires_grad_(), vectors.clone().requires_grad_())
        if own:
            column = LogSumExp.apply(*inputs, log_odds, is_hit)
        else:
            scores = inputs[0] @ inputs[1].T - log_odds
            column = torch.logsumexp(scores.masked_fill(is_hit, -80), dim=1, keepdim=True)
        column[torch.arange(5) != 2].square().sum().backward()
        results.append((column[:2], inputs[0].grad, inputs[1].grad))

    for mine, theirs in zip(*results, strict=True):
        assert torch.allclose(mine, theirs, rtol=1e-4, atol=1e-5)


def test_popular_items_are_not_punished_for_being_drawn_more_often():
    """In-batch negatives are targets, so the popular ones; uncorrected, they would sink."""
    torch.manual_seed(3)
    target = torch.tensor([3, 7, 9, 2]).repeat(500)
    options = replace(OPTIONS, in_batch_negatives=True)

    drawn, log_odds = _negatives(target, ITEMS, torch.from_numpy(SHARES), options)

    weights = torch.bincount(drawn, torch.exp(-log_odds), minlength=ITEMS + 1)[1:]
    expected = torch.full((ITEMS,), OPTIONS.negatives / ITEMS)
    assert torch.allclose(weights, expected, rtol=0.12)


def test_the_large_shape_takes_a_step_in_bf16():
    """What a GPU trains is configuration: it must not fail there for the first time."""
    options = TrainingOptions(
        dim=256, layers=4, heads=4, tokens=200, full_softmax_below=1, in_batch_negatives=True
    )
    options = replace(options, precision="bf16", negatives=64)
    network = new_network(ITEMS, options, np.eye(ITEMS, 8, dtype=np.float32)).train()

    with torch.autocast("cpu", torch.bfloat16):
        loss = weighted_loss(network, a_batch(), options)
    loss.backward()  # type: ignore[no-untyped-call]

    assert torch.isfinite(loss)
    assert all(
        torch.isfinite(one.grad).all() for one in network.parameters() if one.grad is not None
    )


def test_each_item_of_the_history_is_scored_once_with_all_that_is_added_to_it():
    """Counted twice, a repeated item would be pushed down twice."""
    network = a_network(2)
    history = torch.tensor([[3, 5, 3, 7]])
    tokens = (history, *[torch.zeros_like(history)] * 6)
    with torch.no_grad():
        reading, items = network(tokens), network.item_vectors()
        scores = _history_scores(network, reading, history)[0]  # (T, T)

    seen = torch.isfinite(scores).tolist()
    assert seen == [
        [True, False, False, False],
        [True, True, False, False],
        [False, True, True, False],  # the newer 3 stands for both
        [False, True, True, True],
    ]
    copies = reading.copies[0, 3]
    expected = network.scores(reading.users[0, 3], items[2:3]) + copies[0] + copies[2]
    assert float(scores[3, 2]) == pytest.approx(float(expected), rel=1e-5)
