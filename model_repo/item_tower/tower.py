"""
A version's item tower: which items it knows, and what it makes of another item's text.

Plain numpy, as it is one small product: the server need not load torch once more.
"""

from pathlib import Path

import numpy as np
from safetensors.numpy import load_file, save_file

FILE = "tower.safetensors"


class ItemTower:
    """From texts to where their items belong among those of the ranker."""

    def __init__(self, item_keys: np.ndarray, projection: np.ndarray, scale: float) -> None:
        """
        Put a tower together.

        Args:
            item_keys: ``(V,)`` int64, of the items that the ranker knows.
            projection: ``(D, 384)`` float32, as `Network.vectors_from_text` has it.
            scale: The ranker's score of an item is the cosine of user and item, times this.
        """
        self._item_keys = item_keys
        self._projection = projection
        self._scale = scale

    @classmethod
    def load(cls, directory: Path) -> "ItemTower":
        """Read what `save` wrote."""
        parts = load_file(directory / FILE)
        return cls(parts["item_keys"], parts["projection"], float(parts["scale"][0]))

    def save(self, directory: Path) -> None:
        """Write `tower.safetensors`."""
        scale = np.array([self._scale], np.float32)
        parts = {"item_keys": self._item_keys, "projection": self._projection, "scale": scale}
        save_file(parts, directory / FILE)

    def knows(self, item_keys: np.ndarray) -> np.ndarray:
        """Whether each of *item_keys* is one that the ranker knows: bool, of their shape."""
        return np.isin(item_keys, self._item_keys)

    def vectors(self, texts: np.ndarray) -> np.ndarray:
        """
        Item vectors ``(B, D)`` float32 of text vectors ``(B, 384)``.

        The ranker's score of such an item is the inner product with its `user_vector`.
        """
        vectors = texts @ self._projection.T
        lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
        return (self._scale * vectors / np.maximum(lengths, 1e-12)).astype(np.float32)
