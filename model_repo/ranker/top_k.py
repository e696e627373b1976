"""The best items of a catalogue of any size, exactly, within a bound of memory."""

from math import isqrt

import torch
from torch import Tensor

SCORES_AT_ONCE = 1 << 22  # 16 MB of float32: more of them no longer stay near the core


def best_items(
    users: Tensor, items: Tensor, k: int, added: tuple[Tensor, Tensor]
) -> tuple[Tensor, Tensor]:
    """
    The *k* highest inner products of each user, best first.

    Args:
        users: ``(B, D)`` float32.
        items: ``(V, D)`` float32, ``V >= k``; read in place, never copied.
        added: Rows of *items* ``(B, T)``, below 0 for none, and what to add to the products of
            the user with them ``(B, T)``. For one row several times all of it is added.

    Returns:
        Scores ``(B, k)`` and the rows of *items* that they belong to, ``(B, k)`` int64.
    """
    at_once = max(k, SCORES_AT_ONCE // max(len(users), 1))
    rows, values = added
    scores, places = [], []
    for start in range(0, len(items), at_once):
        some = users @ items[start : start + at_once].T
        here = (rows >= start) & (rows < start + at_once)
        some.scatter_add_(1, torch.where(here, rows - start, 0), values.where(here, 0))
        best, at = top_k(some, min(k, some.shape[1]))
        scores.append(best)
        places.append(at + start)
    if len(scores) == 1:
        return scores[0], places[0]
    best, at = torch.cat(scores, dim=1).topk(k)
    return best, torch.cat(places, dim=1).gather(1, at)


def top_k(scores: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """
    What ``scores.topk(k)`` gives, for ``(B, V)`` scores with k far below V, in half of the time.

    Of groups of scores only the maxima are compared at first. Each of the best k scores lies in a
    group whose maximum is among the best k maxima: so nothing outside those groups matters.
    """
    size = isqrt(scores.shape[1] // k)  # of a group: both steps then have as much to compare
    if size < 2:
        best = scores.topk(k)
        return best.values, best.indices
    groups = scores.shape[1] // size
    # Group g is {g, g + groups, g + 2 groups, ...}: neighbours in memory are compared side by side.
    maxima = scores[:, : groups * size].unflatten(1, (size, groups)).amax(dim=1)  # (B, groups)
    chosen = maxima.topk(k, sorted=False).indices.unsqueeze(1)  # (B, 1, k)
    strides = torch.arange(size, device=scores.device).unsqueeze(1) * groups  # (size, 1)
    rest = torch.arange(groups * size, scores.shape[1], device=scores.device)
    places = torch.cat([(chosen + strides).flatten(1), rest.expand(len(scores), -1)], dim=1)
    best, at = scores.gather(1, places).topk(k)
    return best, places.gather(1, at)
