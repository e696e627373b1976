"""Ranks and lists from scores, block by block: nothing of users times items is ever kept."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from services.evaluation.metrics import NO_ITEM
from services.evaluation.queries import NOTHING

LONGEST_LIST = 20
DEPTH = 200  # places looked at before anything is hidden


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


def best_items(scores: NDArray[np.float32], depth: int = DEPTH) -> NDArray[np.int64]:
    """
    The *depth* best items of each row, best first.

    Args:
        scores: ``(B, V)``

    Raises:
        ValueError: If a score is not a number: such a method ranks nothing.
    """
    best = torch.from_numpy(scores).topk(min(depth, scores.shape[1]))
    if not torch.isfinite(best.values).all():
        raise ValueError("a score is not a finite number")
    items: NDArray[np.int64] = best.indices.numpy()
    return items


def hidden_table(hidden: NDArray[np.int64], catalogue: int) -> NDArray[np.bool_]:
    """``(B, V)`` which items must not be in each list, from ``(B, H)`` items padded with -1."""
    table = np.zeros((len(hidden), catalogue), bool)
    rows, columns = np.nonzero(hidden != NOTHING)
    table[rows, hidden[rows, columns]] = True
    return table


def judge(
    best: NDArray[np.int64],
    right: NDArray[np.int64],
    hidden: NDArray[np.bool_],
    longest: int = LONGEST_LIST,
) -> Judged:
    """
    The first *longest* of the *best* items that may be shown, and where the right ones stand.

    Args:
        best: ``(B, D)`` from `best_items`; deeper than *longest* by as many as are hidden.
        right: ``(B, R)`` items, -1 pads.
        hidden: ``(B, V)`` from `hidden_table`.
    """
    unwanted = np.take_along_axis(hidden, best, axis=1)  # (B, D)
    order = np.argsort(unwanted, axis=1, kind="stable")[:, :longest]
    lists = np.take_along_axis(np.where(unwanted, NOTHING, best), order, axis=1)
    found = (right[:, :, None] == lists[:, None, :]) & (right != NOTHING)[:, :, None]  # (B, R, K)
    ranks = np.where(found.any(axis=2), found.argmax(axis=2), NO_ITEM)
    return Judged(ranks, lists)


def join(parts: list[Judged]) -> Judged:
    """The parts as one."""
    return Judged(
        np.concatenate([part.ranks for part in parts]),
        np.concatenate([part.lists for part in parts]),
    )
