"""
The three rows that `headrace train` prints and the manifest keeps: the live protocol, in short.

Targets are those of `headrace evaluate live`, and as there the current item is not recommended.
The baselines go on counting while the log goes by; the network stands still.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from model_repo.ranker.serving import Version
from services.evaluation.counting import Counter, Markov, Popularity
from services.evaluation.judging import best_items, hidden_table, judge
from services.evaluation.metrics import NO_ITEM, means, per_target
from services.evaluation.queries import Histories, Queries, next_in_session
from services.evaluation.walking import Walk
from services.training.log import EventLog
from stream.context import price_buckets

DAY_MS = 86_400_000
ROWS_A_BATCH = 256

Progress = Callable[[float], None]


@dataclass(frozen=True)
class Quality:
    """Means over all targets; 1 is perfect."""

    hr_at_20: float
    mrr_at_20: float
    ndcg_at_10: float


def quality(ranks: NDArray[np.int64]) -> Quality:
    """Metrics of 0-based *ranks* ``(N,)`` of the one right item of each target."""
    found = means(per_target(ranks))
    return Quality(found["hr@20"], found["mrr@20"], found["ndcg@10"])


@dataclass(frozen=True)
class Targets:
    """``(N,)`` places in the log: the event to foretell, and the user's event before it."""

    at: NDArray[np.int64]
    before: NDArray[np.int64]


def find_targets(log: EventLog, from_ms: int) -> Targets:
    """The targets at or after *from_ms*."""
    found = next_in_session(log, from_ms)
    return Targets(found.asked_at, found.before)


def baseline_ranks(
    log: EventLog, targets: Targets, half_life_days: float
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Ranks ``(N,)`` of each target by popularity and by a Markov chain, both halving with age."""
    popularity = Popularity(len(log.item_ids), half_life_days)
    counters: dict[str, Counter] = {
        "popularity": popularity,
        "Markov chain": Markov(popularity, half_life_days),
    }
    right = log.items[targets.at][:, None]
    queries = Queries(log.users[targets.at], targets.before, targets.at, right)
    walk = Walk(Histories(log), np.ones(len(log), bool), counters, within_session=True)
    ranks = {name: [np.zeros((0, 1), np.int64)] for name in counters}
    for part, scores in walk.ask(queries):
        current = hidden_table(log.items[targets.before[part]][:, None], len(log.item_ids))
        for name, one in scores.items():
            ranks[name].append(judge(best_items(one), right[part], current).ranks)
    popular, markov = (np.concatenate(parts)[:, 0] for parts in ranks.values())
    return popular, markov


def model_ranks(
    version: Version,
    log: EventLog,
    log_keys: NDArray[np.int64],
    targets: Targets,
    history_length: int,
    progress: Progress = lambda share: None,
) -> NDArray[np.int64]:
    """
    Ranks ``(N,)`` of each target by *version*, asked just as Triton asks it.

    Args:
        log_keys: ``(V,)`` item keys of the log's items.
    """
    order = np.argsort(log.users, kind="stable")
    position = np.empty_like(order)
    position[order] = np.arange(len(order))
    begins = np.searchsorted(log.users[order], np.arange(log.users.max(initial=0) + 1))
    buckets = price_buckets(log.prices)
    ranks = []
    for start in range(0, len(targets.at), ROWS_A_BATCH):
        before = targets.before[start : start + ROWS_A_BATCH]
        ends = position[before][:, None]  # (B, 1) where the newest event is, user by user
        at = ends - np.arange(history_length - 1, -1, -1)[None, :]  # (B, L)
        real = at >= begins[log.users[before]][:, None]
        events = order[np.where(real, at, 0)]
        ages_s = (log.times_ms[before][:, None] - log.times_ms[events]) / 1000
        answer = version.rank(
            np.where(real, log_keys[log.items[events]], 0),
            np.where(real, log.types[events], 0).astype(np.int32),
            np.where(real, ages_s, 0).astype(np.float32),
            np.where(real, buckets[events], 0),
            np.where(real, log.contexts[events], 0).astype(np.int32),
        )
        right = log_keys[log.items[targets.at[start : start + ROWS_A_BATCH]]][:, None]
        current = log_keys[log.items[before]][:, None]
        shown = answer.item_keys != current  # (B, K)
        hits = answer.item_keys == right
        places = np.take_along_axis(shown.cumsum(axis=1), hits.argmax(axis=1)[:, None], 1)[:, 0] - 1
        ranks.append(np.where(hits.any(axis=1), places, NO_ITEM))
        progress(min(1.0, (start + ROWS_A_BATCH) / max(1, len(targets.at))))
    return np.concatenate(ranks) if ranks else np.zeros(0, np.int64)
