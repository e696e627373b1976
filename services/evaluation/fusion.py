"""Several methods' scores as one: by their ranks, or weighted by what has proved right."""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from services.evaluation.queries import NOTHING

RANK_CONSTANT = 5.0  # small: the first places count; 60 is usual for long lists of documents
FORGET = 0.995  # of what is known about the weights, with each block of queries
PRIOR = 20.0  # how firmly the first weights stand, as a precision
FLOOR = 1e-5  # added to a probability: what was never counted is unlikely, not impossible

Array = NDArray[np.float32]


def reciprocal_rank_fusion(
    best: Sequence[NDArray[np.int64]], catalogue: int, constant: float = RANK_CONSTANT
) -> Array:
    """
    The sum over the methods of 1 / (constant + rank), 0 for an item that none has ranked.

    Cormack et al., Reciprocal Rank Fusion Outperforms Condorcet, SIGIR 2009.

    Args:
        best: ``(B, D)`` each: items, best first.
        catalogue: V, the number of items.

    Returns:
        ``(B, V)``
    """
    fused = torch.zeros(len(best[0]), catalogue)
    for items in best:
        gains = 1 / (constant + 1 + torch.arange(items.shape[1]))
        fused.scatter_add_(1, torch.from_numpy(items), gains.expand(items.shape))
    return as_numpy(fused)


class LogLinear:
    """
    ``log p(item) = Σ w_m log p_m(item) + constant``, with weights that go on learning.

    A conditional logit (McFadden, 1974) on the methods' log-probabilities. Each block of answered
    queries is one Newton step on the likelihood so far, older blocks slowly forgotten; so in the
    live protocol weights are learnt as counts are, and elsewhere from validation alone.
    """

    def __init__(self, methods: int) -> None:
        self.weights = np.full(methods, 1 / methods)
        self._information = PRIOR * np.eye(methods)

    def fuse(self, log_probabilities: Sequence[Array]) -> Array:
        """``(B, V)`` from as many as there are methods, ``(B, V)`` each."""
        fused = np.zeros_like(log_probabilities[0])
        for weight, one in zip(self.weights, log_probabilities, strict=True):
            fused += np.float32(weight) * one
        return fused

    def learn(
        self,
        log_probabilities: Sequence[Array],
        right: NDArray[np.int64],
        hidden: NDArray[np.int64],
    ) -> None:
        """
        One step towards what would have foretold *right*.

        Args:
            log_probabilities: ``(B, V)`` each.
            right: ``(B,)`` items.
            hidden: ``(B, H)`` items that cannot be next, -1 pads.
        """
        fused = self.fuse(log_probabilities)
        rows, columns = np.nonzero(hidden != NOTHING)
        fused[rows, hidden[rows, columns]] = -np.inf
        possible = np.isfinite(fused[np.arange(len(right)), right])  # else there is no answer
        right, kept = right[possible], [one[possible] for one in log_probabilities]
        chances = as_numpy(torch.from_numpy(fused[possible]).softmax(dim=-1))
        weighted = [chances * one for one in kept]  # M times (B, V)
        expected = np.stack([one.sum(axis=1) for one in weighted], axis=1)  # (B, M)
        got = np.stack([one[np.arange(len(right)), right] for one in kept], axis=1)  # (B, M)
        square = [[np.vdot(a, b) for b in kept] for a in weighted]
        spread = np.array(square, np.float64) - expected.T @ expected
        self._information = FORGET * self._information + spread
        step = np.linalg.solve(self._information, (got - expected).sum(axis=0))
        self.weights = self.weights + step


def log_softmax(logits: Array) -> Array:
    """``(B, V)`` logits to log-probabilities."""
    return as_numpy(torch.from_numpy(logits).log_softmax(dim=-1))


def log_shares(shares: Array) -> Array:
    """``(B, V)`` logarithms of what is a probability, or nearly."""
    return np.log(np.maximum(shares, 0) + np.float32(FLOOR))


def as_numpy(values: torch.Tensor) -> Array:
    """The same numbers."""
    found: Array = values.numpy()
    return found
