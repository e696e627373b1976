"""The heads that add to the scores of the history's own items."""

import numpy as np
import torch

from model_repo.ranker.network import Network, Shape, add_copies
from model_repo.ranker.tokens import Tokens

SHAPE = Shape(items=20, dim=16, layers=1, heads=2, tokens=10, dropout=0.0, copy_heads=2)


def read(*rows: list[int], network: Network, last_only: bool = False):
    """Read histories of 1-based items, padded left with 0."""
    length = max(len(row) for row in rows)
    items = np.array([[0] * (length - len(row)) + row for row in rows], np.int64)
    tokens = Tokens(items, *[np.zeros_like(items)] * (len(Tokens._fields) - 1))
    with torch.inference_mode():
        return network(tuple(torch.from_numpy(one) for one in tokens), last_only)


def a_network() -> Network:
    torch.manual_seed(3)
    return Network(SHAPE).eval()


def test_what_a_token_adds_comes_to_its_item_however_often_it_is_there():
    """An item that was looked at three times is one item with three voices."""
    scores = torch.zeros(1, 5)
    added = add_copies(scores, torch.tensor([[9.0, 1.0, 2.0, 4.0]]), torch.tensor([[0, 3, 5, 3]]))

    # Padding's voice must be 0 already: it goes to the first item.
    assert added.tolist() == [[9.0, 0.0, 5.0, 0.0, 2.0]]


def test_padding_and_the_future_add_nothing():
    """Training sees whole sessions: a peek at what comes next would look like quality."""
    copies = read([0, 0, 4, 7, 4], network=a_network()).copies[0]

    assert not copies[:, :2].any()
    assert not torch.triu(copies, 1).any()
    assert copies[4, 2:].all()


def test_padding_before_the_first_token_changes_nothing():
    """A token's key holds the token before it, and padding is none."""
    network = a_network()
    tight, wide = read([4, 7, 4], network=network), read([0, 0, 4, 7, 4], network=network)

    torch.testing.assert_close(tight.copies, wide.copies[:, 2:, 2:])


def test_the_last_token_alone_reads_as_it_does_among_all():
    """Serving computes only the newest position."""
    network, rows = a_network(), ([3, 9, 3, 12], [5, 6])
    every, last = read(*rows, network=network), read(*rows, network=network, last_only=True)

    torch.testing.assert_close(every.copies[:, -1:], last.copies)
    torch.testing.assert_close(every.users[:, -1:], last.users)


def test_without_copy_heads_nothing_is_added():
    """A shop where nobody comes back to an item saves the work."""
    network = Network(Shape(items=20, dim=16, heads=2, copy_heads=0)).eval()

    assert not read([1, 2, 1], network=network).copies.any()
