"""A version's item tower: which items it knows, and what it makes of another item's text."""

import json
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file

from .network import Network, Shape


class ItemTower:
    """What a network knows of an item without its item table."""

    def __init__(self, network: Network, item_keys: np.ndarray) -> None:
        """*item_keys* ``(V,)`` are those in the vocabulary."""
        self._network = network.eval()
        self._item_keys = item_keys

    @classmethod
    def load(cls, directory: Path) -> "ItemTower":
        """Read what `save` wrote."""
        config = json.loads((directory / "config.json").read_text())
        shape = Shape(**{field.name: config[field.name] for field in fields(Shape)})
        weights = load_file(directory / "tower.safetensors")
        item_keys = weights.pop("item_keys").numpy()
        network = _without_items(shape)
        network.load_state_dict(weights, strict=False)
        return cls(network, item_keys)

    def knows(self, item_keys: np.ndarray) -> np.ndarray:
        """Whether each of *item_keys* is in the vocabulary: a bool array of its shape."""
        return np.isin(item_keys, self._item_keys)

    @torch.inference_mode()
    def vectors(self, text_vectors: np.ndarray) -> np.ndarray:
        """
        Item vectors ``(B, D)`` of ``(B, 384)`` text vectors.

        The ranker's score of such an item is the inner product with the user vector.
        """
        vectors = self._network.vectors_from_text(torch.from_numpy(text_vectors))
        return (self._network.shape.logit_scale * vectors).numpy()


def save(network: Network, item_keys: np.ndarray, directory: Path) -> None:
    """Write `tower.safetensors`: all of *network* that does not grow with the catalogue."""
    small = _without_items(network.shape).state_dict()
    weights = {
        name: weight.contiguous()
        for name, weight in network.state_dict().items()
        if name in small and weight.shape == small[name].shape
    }
    save_file(
        {**weights, "item_keys": torch.from_numpy(item_keys)}, directory / "tower.safetensors"
    )


def _without_items(shape: Shape) -> Network:
    return Network(replace(shape, items=0))
