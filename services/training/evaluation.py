"""
Quality on the part of the log that training did not see, beside two baselines.

A target is a click, view, add to cart or purchase whose user's previous event is of the same
session, at most 30 minutes old and on another item. Every method ranks the whole catalogue from
the events before it. The baselines go on counting while the log goes by; the network stands still.
"""

from collections import Counter, defaultdict
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from model_repo.ranker.serving import Version
from services.training.log import EventLog
from stream.context import price_buckets
from stream.event_types import EventType

TARGETS = (EventType.CLICK, EventType.VIEW, EventType.ADD_TO_CART, EventType.PURCHASE)
SESSION_GAP_MS = 30 * 60 * 1000
DAY_MS = 86_400_000
NOT_RANKED = 1_000_000
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
    if len(ranks) == 0:
        return Quality(0.0, 0.0, 0.0)
    return Quality(
        hr_at_20=float((ranks < 20).mean()),
        mrr_at_20=float(np.where(ranks < 20, 1 / (ranks + 1), 0).mean()),
        ndcg_at_10=float(np.where(ranks < 10, 1 / np.log2(ranks + 2), 0).mean()),
    )


@dataclass(frozen=True)
class Targets:
    """``(N,)`` places in the log: the event to foretell, and the user's event before it."""

    at: NDArray[np.int64]
    before: NDArray[np.int64]


def find_targets(log: EventLog, from_ms: int) -> Targets:
    """The targets at or after *from_ms*."""
    order = np.argsort(log.users, kind="stable")
    at, before = order[1:], order[:-1]
    same = (log.users[at] == log.users[before]) & (log.sessions[at] == log.sessions[before])
    soon = log.times_ms[at] - log.times_ms[before] <= SESSION_GAP_MS
    counts = np.isin(log.types[at], TARGETS) & (log.items[at] != log.items[before])
    chosen = same & soon & counts & (log.times_ms[at] >= from_ms)
    by_time = np.argsort(at[chosen])
    return Targets(at[chosen][by_time], before[chosen][by_time])


def baseline_ranks(
    log: EventLog, targets: Targets, half_life_days: float
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """
    Ranks ``(N,)`` of each target by popularity and by a Markov chain (item to the user's next).

    Popularity halves every *half_life_days*; the chain falls back on it for what it has not seen.
    """
    previous = dict(zip(targets.at.tolist(), targets.before.tolist(), strict=True))
    popularity = np.zeros(len(log.item_ids))
    follows: defaultdict[int, Counter[int]] = defaultdict(Counter)
    last_item: dict[int, int] = {}
    start_ms = int(log.times_ms[0])
    popular, markov = [], []
    events = zip(log.users.tolist(), log.items.tolist(), log.times_ms.tolist(), strict=True)
    for place, (user, item, time_ms) in enumerate(events):
        if place in previous:
            rank = int((popularity > popularity[item]).sum())
            popular.append(rank if popularity[item] else NOT_RANKED)
            markov.append(_markov_rank(follows[int(log.items[previous[place]])], popularity, item))
        # Growing weights stand in for decaying counts.
        popularity[item] += 2.0 ** ((time_ms - start_ms) / DAY_MS / half_life_days)
        known = last_item.get(user)
        if known is not None and known != item:
            follows[known][item] += 1
        last_item[user] = item
    return np.array(popular, np.int64), np.array(markov, np.int64)


def _markov_rank(followers: Counter[int], popularity: NDArray[np.float64], item: int) -> int:
    def strength(one: int) -> tuple[int, float]:
        return followers[one], float(popularity[one])

    if item in followers:
        return sum(strength(other) > strength(item) for other in followers)
    if not popularity[item]:
        return NOT_RANKED
    more_popular = popularity > popularity[item]
    more_popular[list(followers)] = False
    return len(followers) + int(more_popular.sum())


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
        hits = answer.item_keys == right
        ranks.append(np.where(hits.any(axis=1), hits.argmax(axis=1), NOT_RANKED))
        progress(min(1.0, (start + ROWS_A_BATCH) / max(1, len(targets.at))))
    return np.concatenate(ranks) if ranks else np.zeros(0, np.int64)
