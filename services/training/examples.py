"""From an event log to what the network learns from: windows over each user's tokens."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from model_repo.ranker.tokens import Tokens, merge_runs, time_bucket
from services.training.log import EventLog
from services.training.options import TrainingOptions
from stream.context import price_buckets
from stream.event_types import EventType

# Seen, but nothing to recommend.
NEVER_TARGETS = (EventType.DISLIKE, EventType.REMOVE_FROM_CART, EventType.REFUND)
LONGEST_GAP = int(time_bucket(np.array([30 * 60.0]))[0])  # within a visit


@dataclass(frozen=True)
class Sequences:
    """Every user's tokens, one user after the other, oldest first."""

    tokens: Tokens  # (N,)
    rows: NDArray[np.int64]  # (N,) ascending: whose token
    fresh: NDArray[np.bool_]  # (N,) whether it may be a target: it came when all before was known
    first_types: NDArray[np.int64]  # (N,) code of the run's first event
    times_ms: NDArray[np.int64]  # (N,) of the run's first event


def sequences(
    log: EventLog, indices: NDArray[np.int64], fresh: NDArray[np.bool_] | None = None
) -> Sequences:
    """
    Merge *log* into tokens.

    Args:
        indices: ``(V,)`` the 1-based item index of each of the log's items, 0 if it has none.
        fresh: ``(E,)`` which events may be targets; all by default.
    """
    known = indices[log.items] > 0
    fresh = np.ones(known.sum(), bool) if fresh is None else fresh[known]
    log = log.where(known)
    order = np.argsort(log.users, kind="stable")  # by user, and by time within
    users, types, times_ms = log.users[order], log.types[order], log.times_ms[order]
    tokens, rows, first = merge_runs(
        users,
        indices[log.items[order]],
        types,
        times_ms / 1000,
        price_buckets(log.prices[order]),
        log.contexts[order],
    )
    return Sequences(tokens, rows, fresh[order][first], types[first], times_ms[first])


def target_weights(found: Sequences, options: TrainingOptions) -> NDArray[np.float64]:
    """``(N,)`` what each token counts as something to predict: 0 for a user's first."""
    by_type = np.ones(int(max(EventType)) + 1)
    by_type[EventType.ADD_TO_CART] = options.cart_weight
    by_type[EventType.CHECKOUT] = options.checkout_weight
    by_type[EventType.PURCHASE] = options.purchase_weight
    by_type[list(NEVER_TARGETS)] = 0
    weights = by_type[found.first_types]
    weights[~found.fresh] = 0
    weights[found.tokens.gaps > LONGEST_GAP] *= options.next_visit_weight
    newest_ms = found.times_ms.max(initial=0)
    ages_days = (newest_ms - found.times_ms) / 86_400_000
    weights *= 0.5 ** (ages_days / options.half_life_days)
    weights[np.flatnonzero(np.diff(found.rows, prepend=-1))] = 0
    return weights


@dataclass(frozen=True)
class Windows:
    """``(W,)`` half-open ranges of tokens; each predicts the tokens from `scored` on."""

    starts: NDArray[np.int64]
    ends: NDArray[np.int64]
    scored: NDArray[np.int64]


def windows(rows: NDArray[np.int64], length: int) -> Windows:
    """
    Cut each user's tokens so that every token but the first is predicted once.

    A window holds at most *length* inputs and their last target. Long histories are cut in steps
    of half a window: a prediction then looks back on at least half of one.
    """
    starts, ends, scored = [], [], []
    bounds = np.append(np.flatnonzero(np.diff(rows, prepend=-1)), len(rows))
    for begin, end in zip(bounds[:-1].tolist(), bounds[1:].tolist(), strict=True):
        done = begin + 1  # the first token that no window predicts yet
        while done < end:
            stop = min(end, max(begin + length + 1, done + length // 2))
            starts.append(max(begin, stop - length - 1))
            ends.append(stop)
            scored.append(done)
            done = stop
    return Windows(np.array(starts, np.int64), np.array(ends, np.int64), np.array(scored, np.int64))


@dataclass(frozen=True)
class Examples:
    """What one pass learns from, ready to be drawn in batches."""

    found: Sequences
    cut: Windows
    weights: NDArray[np.float64]  # (N,) of each token as a target
    shares: NDArray[np.float32]  # (up to V + 1,) of each item among all targets

    def __len__(self) -> int:
        return len(self.cut.starts)


def examples(found: Sequences, options: TrainingOptions) -> Examples:
    """Cut *found* into windows; those in which nothing is to be learnt are left out."""
    weights = target_weights(found, options)
    cut = windows(found.rows, options.tokens)
    before = np.append(0, np.cumsum(weights > 0))  # (N + 1,) targets before each token
    teaches = before[cut.ends] > before[cut.scored]
    kept = Windows(cut.starts[teaches], cut.ends[teaches], cut.scored[teaches])
    counts = np.bincount(found.tokens.items, weights > 0)
    return Examples(found, kept, weights, (counts / max(1.0, counts.sum())).astype(np.float32))


@dataclass(frozen=True)
class Batch:
    """Inputs ``(B, T)`` padded on the right, and what follows each of them."""

    tokens: Tokens
    targets: NDArray[np.int64]  # (B, T) item index, 0 where there is none
    weights: NDArray[np.float32]  # (B, T)
    shares: NDArray[np.float32]  # those of `Examples`

    def rows(self, first: int, step: int) -> "Batch":
        """Every *step*-th row from *first* on: one process's share."""
        if step == 1:
            return self
        tokens = Tokens(*(values[first::step] for values in self.tokens))
        targets, weights = self.targets[first::step], self.weights[first::step]
        return Batch(tokens, targets, weights, self.shares)


def batches(examples: Examples, tokens_a_batch: int, rng: np.random.Generator) -> Iterator[Batch]:
    """Every window once, in random order but with those of like length together."""
    lengths = examples.cut.ends - examples.cut.starts - 1
    noise = rng.uniform(0.7, 1.4, len(lengths))
    order = np.argsort(lengths * noise, kind="stable")
    groups: list[list[int]] = []
    group: list[int] = []
    longest = 1
    for window in order.tolist():
        longest = max(longest, int(lengths[window]))
        if group and longest * (len(group) + 1) > tokens_a_batch:
            groups.append(group)
            group, longest = [], int(lengths[window])
        group.append(window)
    groups.append(group)
    for number in rng.permutation(len(groups)).tolist():
        yield _batch(examples, np.array(groups[number]))


def _batch(examples: Examples, chosen: NDArray[np.int64]) -> Batch:
    found, cut = examples.found, examples.cut
    lengths = cut.ends[chosen] - cut.starts[chosen] - 1  # (B,)
    offsets = np.arange(lengths.max())[None, :]  # (1, T)
    real = offsets < lengths[:, None]  # (B, T)
    at = np.where(real, cut.starts[chosen, None] + offsets, 0)
    following = np.where(real, at + 1, 0)
    counted = real & (following >= cut.scored[chosen, None])
    return Batch(
        tokens=Tokens(*(np.where(real, values[at], 0) for values in found.tokens)),
        targets=np.where(real, found.tokens.items[following], 0),
        weights=np.where(counted, examples.weights[following], 0).astype(np.float32),
        shares=examples.shares,
    )
