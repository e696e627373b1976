"""What slates are like beside being right: how varied, how new, how much of the shop they show."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from services.evaluation.queries import NOTHING

HEAD_SHARE = 0.2  # of the catalogue: the most popular items; the rest is the long tail
PROJECTED_DIM = 128
SEED = 1
CALIBRATION_MIX = 0.01


@dataclass(frozen=True)
class Shop:
    """
    What lists are measured against, from the events before the first query.

    Attributes:
        information: ``(V,)`` bits: -log2 of the share of users who acted on the item (plus one).
        vectors: ``(V, D)`` of length 1: alike where the same users acted on both.
        in_head: ``(V,)`` whether among the most popular `HEAD_SHARE` of items.
        categories: ``(V, C)`` rows that sum to 1, or to 0 for an item without; None if unknown.
    """

    information: NDArray[np.float64]
    vectors: NDArray[np.float32]
    in_head: NDArray[np.bool_]
    categories: NDArray[np.float32] | None = None

    @classmethod
    def of(
        cls,
        users: NDArray[np.int64],
        items: NDArray[np.int64],
        catalogue: int,
        categories: NDArray[np.float32] | None = None,
    ) -> "Shop":
        """From interactions ``(E,)``; repeated ones count once."""
        pairs = np.unique(np.stack([users, items]), axis=1)
        counts = np.bincount(pairs[1], minlength=catalogue)
        shares = (counts + 1) / (len(np.unique(users)) + 1)
        in_head = np.zeros(catalogue, bool)
        in_head[np.argsort(-counts, kind="stable")[: max(1, round(HEAD_SHARE * catalogue))]] = True
        return cls(-np.log2(shares), _projected(pairs, catalogue), in_head, categories)


def of_lists(
    lists: NDArray[np.int64], shop: Shop, histories: NDArray[np.int64], k: int
) -> dict[str, float]:
    """
    Means over the lists' first *k* items.

    - coverage: share of the catalogue that is in any list (Ge et al., RecSys 2010);
    - novelty: mean self-information of an item, bits (Zhou et al., PNAS 2010);
    - diversity: 1 - mean cosine of two items of a list, by who acted on them (Ziegler et al.,
      WWW 2005);
    - long_tail: share of places held by items outside the head (Abdollahpouri et al., 2019);
    - calibration: divergence of the list's categories from the history's, 0 is best, nats
      (Steck, Calibrated Recommendations, RecSys 2018); left out if categories are unknown.

    Args:
        lists: ``(Q, K)`` items, best first, -1 pads.
        histories: ``(Q, L)`` what each user had acted on, -1 pads.
    """
    lists = lists[:, :k]
    shown = lists[lists != NOTHING]
    found = {
        f"coverage@{k}": len(np.unique(shown)) / len(shop.information),
        f"novelty@{k}": float(shop.information[shown].mean()) if len(shown) else 0.0,
        f"diversity@{k}": _diversity(lists, shop.vectors),
        f"long_tail@{k}": float((~shop.in_head[shown]).mean()) if len(shown) else 0.0,
    }
    if shop.categories is not None:
        found[f"calibration@{k}"] = _miscalibration(lists, histories, shop.categories)
    return found


def _diversity(lists: NDArray[np.int64], vectors: NDArray[np.float32]) -> float:
    """The sum of all pairs' cosines is the squared length of the vectors' sum, less the own."""
    total = np.zeros((len(lists), vectors.shape[1]), np.float32)
    for column in lists.T:
        total += np.where((column != NOTHING)[:, None], vectors[column], 0)
    shown = (lists != NOTHING).sum(axis=1)
    own = np.where(lists != NOTHING, (vectors**2).sum(axis=1)[lists], 0).sum(axis=1)
    several = shown > 1
    pairs = (shown * (shown - 1))[several]
    cosines = ((total**2).sum(axis=1) - own)[several] / pairs
    return float(1 - cosines.mean()) if len(cosines) else 0.0


def _miscalibration(
    lists: NDArray[np.int64], histories: NDArray[np.int64], categories: NDArray[np.float32]
) -> float:
    wanted, given = _mean_rows(categories, histories), _mean_rows(categories, lists)
    usable = (wanted.sum(axis=1) > 0) & (given.sum(axis=1) > 0)
    wanted, given = wanted[usable], given[usable]
    mixed = (1 - CALIBRATION_MIX) * given + CALIBRATION_MIX * wanted
    terms = np.where(wanted > 0, wanted * np.log(np.maximum(wanted, 1e-12) / (mixed + 1e-12)), 0)
    return float(terms.sum(axis=1).mean()) if len(terms) else 0.0


def _mean_rows(categories: NDArray[np.float32], items: NDArray[np.int64]) -> NDArray[np.float64]:
    total = np.zeros((len(items), categories.shape[1]))
    for column in items.T:
        total += np.where((column != NOTHING)[:, None], categories[column], 0)
    sums = total.sum(axis=1, keepdims=True)
    return total / np.where(sums > 0, sums, 1)


def _projected(pairs: NDArray[np.int64], catalogue: int) -> NDArray[np.float32]:
    """Items as sums of their users' random signs: cosines survive (Johnson & Lindenstrauss)."""
    rng = np.random.default_rng(SEED)
    users = np.unique(pairs[0], return_inverse=True)[1]
    signs = rng.choice(np.array([-1, 1], np.int8), (int(users.max(initial=-1)) + 1, PROJECTED_DIM))
    by_item = np.argsort(pairs[1], kind="stable")
    items, firsts = np.unique(pairs[1][by_item], return_index=True)
    vectors = np.zeros((catalogue, PROJECTED_DIM), np.float32)
    vectors[items] = np.add.reduceat(signs[users[by_item]].astype(np.float32), firsts, axis=0)
    lengths = np.sqrt((vectors**2).sum(axis=1, keepdims=True))
    vectors /= np.maximum(lengths, np.float32(1e-9))
    return vectors


def category_shares(categories: Sequence[Sequence[str]]) -> NDArray[np.float32] | None:
    """``(V, C)`` for `Shop`, an item's categories sharing it alike; None if no item has any."""
    found = sorted({name for one in categories for name in one})
    names = {name: number for number, name in enumerate(found)}
    if not names:
        return None
    shares = np.zeros((len(categories), len(names)), np.float32)
    for item, one in enumerate(categories):
        for name in one:
            shares[item, names[name]] += 1 / len(one)
    return shares
