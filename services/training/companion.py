"""The item tower that is released with a version: it places newer items, by their text."""

import shutil
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from model_repo.item_tower import tower
from model_repo.ranker.network import Network

ADAPTER = ("model.py", "tower.py", "config.pbtxt")


def write_item_tower(directory: Path, network: Network, item_keys: NDArray[np.int64]) -> None:
    """
    Write the model directory *directory*.

    Args:
        network: Trained with text, and not folded.
        item_keys: ``(V,)`` of its items.
    """
    if network.items.projection is None:
        raise ValueError("this network was trained without text")
    directory.mkdir()
    source = Path(tower.__file__).parent
    for name in ADAPTER:
        shutil.copyfile(source / name, directory / name)
    projection = network.items.projection.weight.detach().float().cpu().numpy()
    tower.ItemTower(item_keys, projection, network.shape.logit_scale).save(directory)
