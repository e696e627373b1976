"""A real version of the ranker, trained in about a second, for tests that need one to serve."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from services.training.log import EventLog
from services.training.options import TrainingOptions
from services.training.pipeline import train
from services.training.release import write_version
from stream.event_types import EventType

Inputs = tuple[
    NDArray[np.int64], NDArray[np.int32], NDArray[np.float32], NDArray[np.int32], NDArray[np.int32]
]

TINY = TrainingOptions(
    epochs=12,
    least_steps=0,
    final_epochs=0,
    dim=16,
    layers=1,
    heads=2,
    tokens=10,
    history_length=20,
    dropout=0.0,
    embedding_dropout=0.0,
    learning_rate=2e-2,
    tokens_a_batch=128,
)


def tiny_log(item_ids: Sequence[str], *, users: int = 60, events: int = 12) -> EventLog:
    """Users who walk through the items in order, each from a place of their own."""
    count = users * events
    users_column = np.repeat(np.arange(users), events)
    steps = np.tile(np.arange(events), users)
    return EventLog(
        item_ids=tuple(item_ids),
        users=users_column,
        items=(users_column + steps) % len(item_ids),
        types=np.full(count, int(EventType.CLICK)),
        times_ms=1_475_280_000_000 + users_column + steps * 60_000,
        sessions=users_column,
        prices=np.full(count, np.nan, np.float32),
        contexts=np.zeros(count, np.int64),
    ).by_time()


def clicks_on(*histories: Sequence[int], length: int) -> Inputs:
    """What `Version.rank` takes: clicks on item keys, a minute apart, padded left to *length*."""
    keys = np.zeros((len(histories), length), np.int64)
    types = np.zeros((len(histories), length), np.int32)
    ages_s = np.zeros((len(histories), length), np.float32)
    for row, history in enumerate(histories):
        used = len(history)
        keys[row, length - used :] = history
        types[row, length - used :] = EventType.CLICK
        ages_s[row, length - used :] = np.arange(used)[::-1] * 60
    nothing = np.zeros_like(types)
    return keys, types, ages_s, nothing, nothing


def build_tiny_version(
    out: Path,
    item_ids: Sequence[str],
    seed: int = 1,
    text_vectors: NDArray[np.floating] | None = None,
) -> Path:
    """Train on a walk through *item_ids* and write the version directory *out*."""
    options = replace(TINY, seed=seed)
    log = tiny_log(item_ids)
    trained = train(
        log,
        options,
        holdout_from_ms=int(log.times_ms[-1]) - 60_000,
        text_vectors=text_vectors,
    )
    return write_version(out, trained, options)
