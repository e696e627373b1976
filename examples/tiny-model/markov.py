"""What is clicked next, from what was clicked last: a first-order Markov chain over items."""

from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import numpy as np
from safetensors.numpy import load_file, save_file

SUCCESSORS = 50  # kept of each item
BACK_OFF = 0.1  # weight of popularity, where the chain knows nothing


class Markov(NamedTuple):
    """``V`` items by ascending key, and what followed each of them."""

    item_keys: np.ndarray  # (V,) int64
    popularity: np.ndarray  # (V,) float32, sums to 1
    successors: np.ndarray  # (V, S) int64, rows of item_keys
    chances: np.ndarray  # (V, S) float32, 0 where an item had fewer successors

    @classmethod
    def fit(cls, histories: Iterable[np.ndarray]) -> "Markov":
        """Count transitions in *histories*: the int64 item keys of one user each, oldest first."""
        histories = list(histories)
        item_keys, counts = np.unique(np.concatenate(histories), return_counts=True)
        follows = np.zeros((len(item_keys), len(item_keys)), np.float32)  # fine for a small shop
        for history in histories:
            items = np.searchsorted(item_keys, history)
            np.add.at(follows, (items[:-1], items[1:]), 1.0)
        follows /= np.maximum(follows.sum(axis=1, keepdims=True), 1.0)
        successors = np.argsort(-follows, axis=1, kind="stable")[:, :SUCCESSORS]
        chances = np.take_along_axis(follows, successors, axis=1)
        return cls(item_keys, (counts / counts.sum()).astype(np.float32), successors, chances)

    def rank(self, item_keys: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        """
        The *k* best items after each history, best first.

        Args:
            item_keys: ``(B, L)`` int64, newest last, padded left with 0. Unknown keys are passed
                over; where none is known, popular items are best.

        Returns:
            ``(B, k)`` int64 keys and ``(B, k)`` float32 scores.
        """
        places = np.searchsorted(self.item_keys, item_keys).clip(max=len(self.item_keys) - 1)
        known = self.item_keys[places] == item_keys  # (B, L)
        newest = item_keys.shape[1] - 1 - known[:, ::-1].argmax(axis=1)  # (B,)
        last = np.take_along_axis(places, newest[:, None], axis=1)[:, 0]
        scores = np.tile(BACK_OFF * self.popularity, (len(item_keys), 1))  # (B, V)
        rows = np.flatnonzero(known.any(axis=1))
        scores[rows[:, None], self.successors[last[rows]]] += self.chances[last[rows]]
        best = np.argsort(-scores, axis=1, kind="stable")[:, :k]
        return self.item_keys[best], np.take_along_axis(scores, best, axis=1)

    def save(self, directory: Path) -> None:
        """Write `items.safetensors`, which every version has, and `model.safetensors`."""
        items = {"item_keys": self.item_keys, "popularity": self.popularity}
        chain = {"successors": self.successors, "chances": self.chances}
        save_file(items, directory / "items.safetensors")
        save_file(chain, directory / "model.safetensors")

    @classmethod
    def load(cls, directory: Path) -> "Markov":
        """Read what `save` wrote."""
        items = load_file(directory / "items.safetensors")
        return cls(**items, **load_file(directory / "model.safetensors"))
