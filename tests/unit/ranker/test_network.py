"""The network as a whole."""

import torch

from model_repo.ranker.network import Network, Shape
from model_repo.ranker.tokens import EVENT_TYPES


def test_every_weight_takes_part():
    """A layer that is declared and not called costs memory, and quality that nobody misses."""
    torch.manual_seed(0)
    network = Network(Shape(items=20, dim=16, tokens=8, text_dim=4)).eval()
    network.set_text(torch.randn(20, 4))
    if network.copying is not None:  # begins where its query has no influence yet
        torch.nn.init.normal_(network.copying.gain.weight)
    items = torch.randint(1, 21, (4, 8))
    codes = torch.randint(1, EVENT_TYPES, (4, 8))
    reading = network((items, 1 << codes, codes, codes, codes, codes, codes))

    (reading.users[..., :8].sum() + reading.copies.sum()).backward()

    idle = [name for name, p in network.named_parameters() if p.grad is None or not p.grad.any()]
    assert idle == []
