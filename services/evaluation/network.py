"""The ranker's scores over a log's catalogue, asked just as Triton asks it."""

import numpy as np
from numpy.typing import NDArray

from model_repo.ranker.serving import Version
from services.evaluation.fusion import Array
from services.evaluation.queries import Histories, Queries
from stream.context import price_buckets
from stream.keys import item_key

DEPTH = 1000  # items asked of it; what comes after them has the score of the last one, less one


class Ranker:
    """One version, and what it sees of a log."""

    def __init__(self, version: Version, histories: Histories, history_length: int) -> None:
        """*history_length* is the number of events that a worker sends; *version* gives `DEPTH`."""
        log = histories.log
        self._version = version
        self._histories = histories
        self._history_length = history_length
        self._keys = np.array([item_key(one) for one in log.item_ids], np.int64)  # (V,)
        self._by_key = np.argsort(self._keys)
        self._buckets = price_buckets(log.prices)  # (E,)

    def __call__(self, queries: Queries) -> Array:
        """Logits of each item as the next one, ``(B, V)``; without history, log-popularity."""
        log, before = self._histories.log, queries.before
        events, real = self._histories.places(before, self._history_length)
        ages_s = (log.times_ms[before][:, None] - log.times_ms[events]) / 1000
        answer = self._version.rank(
            np.where(real, self._keys[log.items[events]], 0),
            np.where(real, log.types[events], 0).astype(np.int32),
            np.where(real, ages_s, 0).astype(np.float32),
            np.where(real, self._buckets[events], 0).astype(np.int32),
            np.where(real, log.contexts[events], 0).astype(np.int32),
        )
        best = answer.scores.astype(np.float32)  # (B, K)
        nobody = ~answer.user_vectors.any(axis=1)
        best[nobody] = np.log(np.maximum(best[nobody], 1e-9))
        scores = np.repeat(best.min(axis=1, keepdims=True) - 1, len(self._keys), axis=1)
        rows, columns = np.nonzero(np.isin(answer.item_keys, self._keys))
        scores[rows, self._places(answer.item_keys[rows, columns])] = best[rows, columns]
        return scores

    def _places(self, keys: NDArray[np.int64]) -> NDArray[np.int64]:
        """Where in the log's catalogue known *keys* are."""
        found: NDArray[np.int64] = self._by_key[np.searchsorted(self._keys[self._by_key], keys)]
        return found
