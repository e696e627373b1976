"""What an item's text is to the network, and that serving's form of it scores the same."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from model_repo.ranker.network import Network, Shape

ITEMS, TEXT_DIM = 20, 8


def a_network(**options: float) -> Network:
    torch.manual_seed(2)
    shape = {"items": ITEMS, "dim": 16, "tokens": 6, "text_dim": TEXT_DIM} | options
    network = Network(Shape(**shape)).eval()  # type: ignore[arg-type]
    if network.shape.text_dim:
        texts = F.normalize(torch.randn(ITEMS, TEXT_DIM), dim=-1)
        texts[4] = 0
        network.set_text(texts)
    return network


def some_tokens(length: int = 5) -> tuple[torch.Tensor, ...]:
    rng = np.random.default_rng(0)
    items = torch.from_numpy(rng.integers(1, ITEMS + 1, (3, length)))
    return (items, *[torch.ones_like(items)] * 6)


@torch.no_grad()
def test_serving_scores_as_training_did():
    """The table that serving reads has the texts in it; the answers must be the same."""
    network = a_network(delta_dropout=0.5)
    folded = network.folded()

    assert folded.shape.text_dim == 0
    assert torch.allclose(network.item_vectors(), folded.item_vectors(), atol=1e-6)
    for one, other in zip(network(some_tokens()), folded(some_tokens()), strict=True):
        assert torch.allclose(one, other, atol=1e-5)


def test_folding_leaves_a_network_in_training_as_it_was():
    """It is judged while it trains: dropout must be on afterwards."""
    network = a_network(delta_dropout=0.9).train()

    folded = network.folded()

    assert network.training
    assert network.items.training
    with torch.no_grad():
        assert torch.allclose(folded.item_vectors(), network.eval().item_vectors(), atol=1e-6)


@torch.no_grad()
def test_an_item_of_which_nothing_was_learnt_is_what_its_text_says():
    """So an item that arrives after training has its place before anyone touched it."""
    network = a_network()
    network.items.delta.weight[3] = 0

    from_text = network.vectors_from_text(network.items.text_vectors[3:4].float())

    assert torch.allclose(network.item_vectors()[2], from_text[0], atol=1e-6)


@torch.no_grad()
def test_an_item_without_text_is_what_was_learnt_of_it():
    """A zero text must add nothing, or all such items would be drawn together."""
    network = a_network()

    learnt = F.normalize(network.items.delta.weight[5], dim=-1)

    assert torch.allclose(network.item_vectors()[4], learnt, atol=1e-6)


@torch.no_grad()
def test_training_shows_some_items_as_their_text_alone():
    """Else the projection would explain only what the deltas leave over."""
    network = a_network(delta_dropout=0.5).train()
    every = torch.arange(1, ITEMS + 1).repeat(200)

    vectors = network.items(every)
    text = network.items.projection(network.items.text_vectors[every].float())  # type: ignore[misc]

    alone = (vectors == text).all(dim=-1).float().mean()
    assert 0.45 < float(alone) < 0.55


def test_a_network_without_text_says_so():
    """A wrong deployment must not look like a bad recommendation."""
    with pytest.raises(ValueError, match="without text"):
        a_network(text_dim=0).vectors_from_text(torch.zeros(1, TEXT_DIM))


@torch.no_grad()
@pytest.mark.parametrize("last_only", [True, False])
def test_what_follows_does_not_change_what_was_read(last_only: bool):
    """A prediction that has seen its target is worth nothing."""
    network = a_network()
    whole = network(some_tokens())

    begun = network(tuple(values[:, :3] for values in some_tokens()), last_only)

    assert torch.allclose(begun.users[:, -1], whole.users[:, 2], atol=1e-5)


def test_bf16_reads_nearly_as_float32_does():
    """Training on a GPU runs under autocast."""
    network = a_network()
    with torch.no_grad():
        exact = network(some_tokens()).users
        with torch.autocast("cpu", torch.bfloat16):
            rough = network(some_tokens()).users

    assert (exact * rough.float()).sum(-1).min() > 0.99
