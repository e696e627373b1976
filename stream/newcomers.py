"""Items that a version of the model has never seen: scored here, beside those that it ranked."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from stream.ranking import Ranked


@dataclass(frozen=True, slots=True)
class Newcomers:
    """Items outside a version's vocabulary, as its item tower sees them."""

    item_keys: NDArray[np.int64]  # (F,)
    vectors: NDArray[np.float32]  # (F, D) a score is the inner product with a user vector

    def only(self, kept: NDArray[np.bool_]) -> "Newcomers":
        """Those where *kept* ``(F,)`` is true."""
        return self if kept.all() else Newcomers(self.item_keys[kept], self.vectors[kept])


def with_newcomers(ranked: Ranked, newcomers: Newcomers) -> Ranked:
    """
    *ranked* with each newcomer in its place by score; as many items a row as before.

    A user of whom the version knows nothing has no vector, so their row stays as it is.
    """
    users = ranked.user_vectors
    if users is None or not len(newcomers.item_keys):
        return ranked
    k = ranked.item_keys.shape[1]
    scores = users @ newcomers.vectors.T  # (B, F)
    scores[~users.any(axis=1)] = -np.inf
    best = _best(scores, k)  # (B, up to k)
    keys = np.concatenate([ranked.item_keys, newcomers.item_keys[best]], axis=1)
    scores = np.concatenate([ranked.scores, np.take_along_axis(scores, best, axis=1)], axis=1)
    order = np.argsort(-scores, axis=1, kind="stable")[:, :k]
    return Ranked(
        np.take_along_axis(keys, order, axis=1), np.take_along_axis(scores, order, axis=1), users
    )


def _best(scores: NDArray[np.float32], k: int) -> NDArray[np.int64]:
    """Where the best *k* of each row are, in no order."""
    if scores.shape[1] <= k:
        return np.broadcast_to(np.arange(scores.shape[1]), scores.shape)
    return np.argpartition(scores, -k, axis=1)[:, -k:]
