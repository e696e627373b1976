"""The items that a version knows, and how popular each of them is."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from services.training.log import TrainingSet

DAY_MS = 86_400_000


@dataclass(frozen=True)
class Vocabulary:
    """The items a version knows, by ascending key; item index i + 1 is row i."""

    item_ids: tuple[str, ...]
    item_keys: NDArray[np.int64]  # (V,)
    popularity: NDArray[np.float32]  # (V,) share of recent actions, halving with age


def by_index(values: NDArray[np.float16], indices: NDArray[np.int64]) -> NDArray[np.float16]:
    """Rows ``(V, n)`` of a set's items as rows of the network's, whose *indices* are 1-based."""
    ordered = np.zeros((indices.max(initial=0), values.shape[1]), values.dtype)
    ordered[indices - 1] = values
    return ordered


def make_vocabulary(
    data: TrainingSet, keys: NDArray[np.int64], half_life_days: float
) -> tuple[Vocabulary, NDArray[np.int64]]:
    """
    The vocabulary of *data*, and the 1-based item index of each of its items.

    Where two ids share a key, the lexicographically smaller one has it, as everywhere.
    """
    by_key: dict[int, str] = {}
    for key, one in zip(keys.tolist(), data.item_ids, strict=True):
        by_key[key] = min(one, by_key.get(key, one))
    ordered = np.array(sorted(by_key), np.int64)
    indices = np.searchsorted(ordered, keys) + 1
    counts = np.zeros(len(ordered))
    for shard in data.shards():
        ages_days = (data.last_ms - shard.log.times_ms) / DAY_MS
        weights = shard.fresh * 0.5 ** (ages_days / half_life_days)
        counts += np.bincount(indices[shard.log.items] - 1, weights, minlength=len(ordered))
    popularity = (counts / counts.sum()).astype(np.float32)
    item_ids = tuple(by_key[key] for key in ordered.tolist())
    return Vocabulary(item_ids, ordered, popularity), indices
