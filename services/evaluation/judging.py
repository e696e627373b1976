"""Ranks and lists from scores, block by block: nothing of users times items is ever kept."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from services.evaluation.metrics import NO_ITEM
from services.evaluation.queries import NOTHING

LONGEST_LIST = 20


@dataclass(frozen=True)
class Judged:
    """
    What a method answered.

    Attributes:
        ranks: ``(Q, R)`` 0-based, `NO_ITEM` for what is not in the list.
        lists: ``(Q, K)`` the best items, best first; -1 where there are fewer.
    """

    ranks: NDArray[np.int64]
    lists: NDArray[np.int64]

    def where(self, chosen: NDArray[Any]) -> "Judged":
        """Only the chosen queries."""
        return Judged(self.ranks[chosen], self.lists[chosen])


def judge(
    scores: NDArray[np.float32],
    right: NDArray[np.int64],
    hidden: NDArray[np.int64],
    longest: int = LONGEST_LIST,
) -> Judged:
    """
    The best items of each row, and where the right ones stand.

    Args:
        scores: ``(B, V)``
        right: ``(B, R)`` items, -1 pads.
        hidden: ``(B, H)`` items that must not be in the list, -1 pads.

    Raises:
        ValueError: If a score is not a number: such a method ranks nothing.
    """
    rows, columns = np.nonzero(hidden != NOTHING)
    places = (rows, hidden[rows, columns])
    kept = scores[places]
    scores[places] = -np.inf  # and back below: a copy of the block would cost more than all else
    best = torch.from_numpy(scores).topk(min(longest, scores.shape[1]))
    scores[places] = kept
    values, indices = best.values.numpy(), best.indices.numpy()
    if np.isnan(values).any():
        raise ValueError("a score is not a number")
    lists = np.where(np.isfinite(values), indices, NOTHING)
    found = (right[:, :, None] == lists[:, None, :]) & (right != NOTHING)[:, :, None]  # (B, R, K)
    ranks = np.where(found.any(axis=2), found.argmax(axis=2), NO_ITEM)
    return Judged(ranks, lists)


def join(parts: list[Judged]) -> Judged:
    """The parts as one."""
    return Judged(
        np.concatenate([part.ranks for part in parts]),
        np.concatenate([part.lists for part in parts]),
    )
