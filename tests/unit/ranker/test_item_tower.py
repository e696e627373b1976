"""An item tower says of a text what its ranker would."""

from pathlib import Path

import numpy as np
import torch

from model_repo.item_tower.tower import ItemTower
from model_repo.ranker.network import Network, Shape
from services.training.companion import write_item_tower

KEYS = np.array([-7, 2, 9], np.int64)


def a_network() -> Network:
    torch.manual_seed(1)
    return Network(Shape(items=3, dim=8, text_dim=384)).eval()


def test_a_vector_gives_the_score_that_the_network_gives(tmp_path: Path):
    """Two pieces of code, so that the server need not load torch for a product."""
    network = a_network()
    write_item_tower(tmp_path / "item_tower", network, KEYS)
    rng = np.random.default_rng(0)
    texts = rng.normal(size=(5, 384)).astype(np.float32)
    users = torch.nn.functional.normalize(torch.randn(4, 8), dim=-1)

    vectors = ItemTower.load(tmp_path / "item_tower").vectors(texts)

    with torch.inference_mode():
        expected = network.scores(users, network.vectors_from_text(torch.from_numpy(texts)))
    np.testing.assert_allclose(users.numpy() @ vectors.T, expected.numpy(), atol=1e-4)


def test_an_empty_text_has_no_place(tmp_path: Path):
    """Nor may it be NaN."""
    write_item_tower(tmp_path / "item_tower", a_network(), KEYS)

    vectors = ItemTower.load(tmp_path / "item_tower").vectors(np.zeros((1, 384), np.float32))

    assert not vectors.any()


def test_it_knows_the_vocabulary(tmp_path: Path):
    """What the ranker ranks itself is no newcomer."""
    write_item_tower(tmp_path / "item_tower", a_network(), KEYS)

    known = ItemTower.load(tmp_path / "item_tower").knows(np.array([[2], [3], [-7]]))

    assert known.tolist() == [[True], [False], [True]]
