"""
What a history looks like to the network: runs of one item, merged into tokens.

Training and serving share this file, which is copied into every version directory.
"""

from typing import NamedTuple

import numpy as np

EVENT_TYPES = 16  # codes 1 to 15 have a meaning of their own; 0 is padding
TIME_BUCKETS = 64
NO_GAP = 0  # the bucket of a first token: nothing came before
PRICE_BUCKETS = 32
# A context is an int32: hour of the day, device, country and page, from its lowest bits upwards.
CONTEXT_BITS = (5, 3, 8, 12)


class Tokens(NamedTuple):
    """Runs of one item, merged: parallel arrays of one shape, ``(N,)`` or ``(B, T)``."""

    items: np.ndarray  # int64, 1-based item index; 0 is padding
    type_sets: np.ndarray  # int64, bit c is set if an event of code c is in the run
    last_types: np.ndarray  # int64, code of the run's last event
    gaps: np.ndarray  # int64, bucket of the time since the run before; NO_GAP for a first one
    dwells: np.ndarray  # int64, bucket of the time from the run's first event to its last
    price_buckets: np.ndarray  # int64, of the run's last event; 0 where it is not known
    contexts: np.ndarray  # int64, of the run's last event; 0 where nothing is known


def merge_runs(
    rows: np.ndarray,
    items: np.ndarray,
    types: np.ndarray,
    times_s: np.ndarray,
    price_buckets: np.ndarray,
    contexts: np.ndarray,
) -> tuple[Tokens, np.ndarray, np.ndarray]:
    """
    Merge consecutive events of one row on one item into one token each.

    Args:
        rows: ``(E,)`` ascending: whose event it is.
        items: ``(E,)`` 1-based item index.
        types: ``(E,)`` event codes; one that is out of range counts as unknown.
        times_s: ``(E,)`` seconds, ascending within a row.
        price_buckets: ``(E,)`` 0 to 31.
        contexts: ``(E,)`` packed as `CONTEXT_BITS` says.

    Returns:
        Tokens of shape ``(N,)``, each token's row ``(N,)`` and its first event's index ``(N,)``.
    """
    if len(rows) == 0:
        nothing = np.zeros(0, np.int64)
        return Tokens(*[nothing] * len(Tokens._fields)), nothing, nothing
    types = np.where((types > 0) & (types < EVENT_TYPES), types, 0).astype(np.int64)
    is_first = np.ones(len(rows), bool)
    is_first[1:] = (rows[1:] != rows[:-1]) | (items[1:] != items[:-1])
    first = np.flatnonzero(is_first)
    last = np.append(first[1:], len(rows)) - 1
    gaps = np.full(len(first), NO_GAP, np.int64)
    follows = np.flatnonzero(rows[first[1:]] == rows[first[1:] - 1]) + 1
    gaps[follows] = time_bucket(times_s[first[follows]] - times_s[first[follows] - 1])
    tokens = Tokens(
        items=items[first].astype(np.int64),
        type_sets=np.bitwise_or.reduceat(np.left_shift(1, types), first),
        last_types=types[last],
        gaps=gaps,
        dwells=time_bucket(times_s[last] - times_s[first]),
        price_buckets=price_buckets[last].clip(0, PRICE_BUCKETS - 1).astype(np.int64),
        contexts=contexts[last].astype(np.int64),
    )
    return tokens, rows[first], first


def time_bucket(seconds: np.ndarray) -> np.ndarray:
    """Buckets 1 to 63, two for each doubling of the time; below a second is the first."""
    buckets = 1 + np.floor(2 * np.log2(np.maximum(seconds, 0) + 1))
    return np.minimum(buckets, TIME_BUCKETS - 1).astype(np.int64)


def last_tokens(tokens: Tokens, rows: np.ndarray, batch: int, length: int) -> Tokens:
    """The newest *length* tokens of each of *batch* rows, ``(B, T)``, padded left with 0."""
    ends = np.cumsum(np.bincount(rows, minlength=batch))  # (B,)
    columns = length - (ends[rows] - np.arange(len(rows)))  # (N,) the newest is at length - 1
    kept = np.flatnonzero(columns >= 0)
    places = rows[kept] * length + columns[kept]
    blocks = np.zeros((len(Tokens._fields), batch * length), np.int64)
    for block, values in zip(blocks, tokens, strict=True):
        block[places] = values[kept]
    return Tokens(*blocks.reshape(-1, batch, length))
