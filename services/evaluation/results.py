"""A protocol's outcome: rows of figures, as JSON and for tables."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from services.evaluation.bootstrap import intervals
from services.evaluation.judging import Judged
from services.evaluation.lists import Shop, of_lists
from services.evaluation.metrics import CUTOFFS, PerTarget, means, per_target_of
from services.evaluation.queries import NOTHING, Queries

Row = dict[str, Any]
WITH_INTERVAL = ("hr@10", "hr@20", "ndcg@10", "mrr@20")
SEED = ", seed "  # in a method's name, before the number
HISTORIES = {"cold": (0, 2), "short": (3, 9), "long": (10, 1 << 60)}  # distinct items known


@dataclass
class Outcome:
    """
    What a protocol found.

    Attributes:
        rows: One a method: ``{"method": …, "targets": …, "hr@10": …, "hr@10_low": …, …}``.
        splits: The same for parts of the targets, by the part's name.
        about: What was judged: numbers of users, items and events, dates, notes.
    """

    protocol: str
    rows: list[Row]
    splits: dict[str, list[Row]] = field(default_factory=dict)
    about: dict[str, Any] = field(default_factory=dict)

    def as_json(self) -> dict[str, Any]:
        """The object that ``--json`` writes."""
        return {
            "protocol": self.protocol,
            "about": self.about,
            "rows": self.rows,
            "splits": self.splits,
        }


def rows(
    judged: Mapping[str, Judged],
    queries: Queries,
    cutoffs: tuple[int, ...] = CUTOFFS,
) -> list[Row]:
    """One row a method, accuracy with bootstrap intervals."""
    right = (queries.right != NOTHING).sum(axis=1)
    found = {name: per_target_of(one.ranks, right, cutoffs) for name, one in judged.items()}
    return means_with_intervals({**_means_over_seeds(found), **found}, queries.users)


def _means_over_seeds(found: Mapping[str, PerTarget]) -> dict[str, PerTarget]:
    """For methods that differ in their seed only, what they achieve on average."""
    groups: defaultdict[str, list[PerTarget]] = defaultdict(list)
    for name, metrics in found.items():
        if SEED in name:
            groups[name.partition(SEED)[0]].append(metrics)
    return {
        name: {metric: np.mean([one[metric] for one in group], axis=0) for metric in group[0]}
        for name, group in groups.items()
    }


def means_with_intervals(found: Mapping[str, PerTarget], users: NDArray[np.int64]) -> list[Row]:
    """Rows from each method's metrics ``(Q,)``; the same users are drawn for all methods."""
    ends = intervals(
        {
            f"{method} {name}": metrics[name]
            for method, metrics in found.items()
            for name in WITH_INTERVAL
            if name in metrics
        },
        users,
    )
    table = []
    for method, metrics in found.items():
        row: Row = {"method": method, "targets": len(users), **means(metrics)}
        for name in WITH_INTERVAL:
            if name in metrics:
                row[f"{name}_low"], row[f"{name}_high"] = ends[f"{method} {name}"]
        table.append(row)
    return table


def add_list_metrics(
    table: Sequence[Row],
    judged: Mapping[str, Judged],
    shop: Shop,
    histories: NDArray[np.int64],
    k: int = 20,
) -> None:
    """Add what slates of *k* are like beside being right to the rows of *judged*'s methods."""
    found = {name: of_lists(one.lists, shop, histories, k) for name, one in judged.items()}
    for row in table:
        method = row["method"]
        same = [one for name, one in found.items() if name.partition(SEED)[0] == method]
        own = [found[method]] if method in found else same
        row.update({metric: float(np.mean([one[metric] for one in own])) for metric in own[0]})


def segments(
    queries: Queries, histories: NDArray[np.int64], in_head: NDArray[np.bool_]
) -> dict[str, NDArray[np.bool_]]:
    """
    Which targets are of whom and of what: masks ``(Q,)`` by name.

    Args:
        histories: ``(Q, L)`` items known of each user, -1 pads.
    """
    ordered = np.sort(histories, axis=1)
    new = np.diff(ordered, axis=1, prepend=NOTHING) != 0
    distinct = (new & (ordered != NOTHING)).sum(axis=1)
    found = {
        f"{name} history": (distinct >= low) & (distinct <= high)
        for name, (low, high) in HISTORIES.items()
    }
    if queries.right.shape[1] == 1:
        head = in_head[queries.right[:, 0]]
        found |= {"head items": head, "tail items": ~head}
    return {name: chosen for name, chosen in found.items() if chosen.any()}
