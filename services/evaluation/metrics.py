"""
Accuracy from the ranks of the right items, one number a target; a mean over targets is a metric.

Each target has one right item (next item, leave-one-out) or several (all that a user went on to
act on), so ranks come as a matrix. With one right item recall is the hit rate, precision at k is
HR/k, and NDCG needs no ideal but 1. Definitions: Järvelin & Kekäläinen, TOIS 2002 (NDCG, binary
gains); Manning et al., Introduction to Information Retrieval, ch. 8 (the others).
"""

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

CUTOFFS = (5, 10, 20)
NO_ITEM = np.iinfo(np.int64).max  # the rank of padding, and of what is not ranked at all

PerTarget = dict[str, NDArray[np.float64]]


def per_target(ranks: NDArray[np.int64], cutoffs: tuple[int, ...] = CUTOFFS) -> PerTarget:
    """
    Each metric of each target.

    Args:
        ranks: ``(N, R)`` 0-based ranks of the right items in any order, `NO_ITEM` where there are
            fewer than R. ``(N,)`` for one right item each.

    Returns:
        ``{"hr@5": (N,), …}``, values from 0 to 1, where 1 is perfect.
    """
    return per_target_of(ranks, _counts(ranks), cutoffs)


def per_target_of(
    ranks: NDArray[np.int64], right: NDArray[np.int64], cutoffs: tuple[int, ...] = CUTOFFS
) -> PerTarget:
    """As `per_target`, where *right* ``(N,)`` says how many there are: some may not be ranked."""
    ranks = np.sort(ranks[:, None] if ranks.ndim == 1 else ranks, axis=1)  # (N, R) best first
    best = ranks[:, 0]
    gains = 1 / np.log2(np.minimum(ranks, 2**40) + 2.0)  # (N, R)
    ideal = np.cumsum(1 / np.log2(np.arange(max(cutoffs)) + 2.0))
    metrics: PerTarget = {"accuracy@1": (best == 0).astype(np.float64)}
    for k in cutoffs:
        within = ranks < k
        hits = within.sum(axis=1)
        metrics[f"hr@{k}"] = (hits > 0).astype(np.float64)
        metrics[f"recall@{k}"] = hits / right
        metrics[f"precision@{k}"] = hits / k
        metrics[f"f1@{k}"] = 2 * hits / (right + k)  # the harmonic mean of the two above
        metrics[f"mrr@{k}"] = np.where(best < k, 1 / (np.minimum(best, k) + 1), 0.0)
        metrics[f"ndcg@{k}"] = (gains * within).sum(axis=1) / ideal[np.minimum(right, k) - 1]
    return metrics


def means(metrics: Mapping[str, NDArray[np.float64]]) -> dict[str, float]:
    """The mean of each metric over its targets; 0 where there are none."""
    return {name: float(values.mean()) if len(values) else 0.0 for name, values in metrics.items()}


def _counts(ranks: NDArray[np.int64]) -> NDArray[np.int64]:
    if ranks.ndim == 1:
        return np.ones(len(ranks), np.int64)
    counts: NDArray[np.int64] = (ranks != NO_ITEM).sum(axis=1)
    return np.maximum(counts, 1)
