"""Train, judge on what was held out, then learn that too: one run from log to network."""

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from model_repo.ranker.network import Network
from model_repo.ranker.serving import Version
from services.training.evaluation import (
    DAY_MS,
    Quality,
    baseline_ranks,
    find_targets,
    model_ranks,
    quality,
)
from services.training.examples import examples, sequences
from services.training.log import EventLog, UnreadableLog
from services.training.memory import keep_freed_memory
from services.training.options import TrainingOptions
from services.training.trainer import fit, new_network
from stream.keys import item_key

FINE_TUNING = 0.3  # of the learning rate, for the last epochs on everything
EVALUATION_SHARE = 0.05  # of the progress bar

Progress = Callable[[float], None]


@dataclass(frozen=True)
class Vocabulary:
    """The items a version knows, by ascending key; item index i + 1 is row i."""

    item_ids: tuple[str, ...]
    item_keys: NDArray[np.int64]  # (V,)
    popularity: NDArray[np.float32]  # (V,) share of recent actions, halving with age


@dataclass(frozen=True)
class Trained:
    """What a run gives: a network, what it knows, and how good it was before the last epochs."""

    network: Network
    vocabulary: Vocabulary
    qualities: dict[str, Quality]
    targets: int
    first_ms: int
    last_ms: int


def train(
    log: EventLog,
    options: TrainingOptions,
    *,
    holdout_from_ms: int,
    progress: Progress = lambda share: None,
) -> Trained:
    """
    Train on the events before *holdout_from_ms*, judge on the rest, then fine-tune on it too.

    Items of the held-out part alone are in the vocabulary (a day-zero slate may need them), but
    untrained while the judging goes on.

    Raises:
        UnreadableLog: If too little is left to learn from.
    """
    torch.set_num_threads(options.threads)
    keep_freed_memory()
    keys = np.array([item_key(one) for one in log.item_ids], np.int64)
    vocabulary, indices = make_vocabulary(log, keys, options.popularity_half_life_days)
    past = sequences(log.where(log.times_ms < holdout_from_ms), indices)
    if len(past.rows) == len(np.unique(past.rows)):
        raise UnreadableLog(
            "nothing to learn from before the held-out part: no user acted on two items. "
            "Give a longer log or hold out less (--holdout)."
        )
    fine_tune = options.final_epochs if bool((log.times_ms >= holdout_from_ms).any()) else 0
    epochs = _epochs(len(past.rows), options)
    share = (1 - EVALUATION_SHARE) * epochs / (epochs + fine_tune)
    network = new_network(len(vocabulary.item_keys), options)
    fit(
        network,
        [examples(past, options)],
        options,
        epochs=epochs,
        progress=lambda done: progress(done * share),
    )
    qualities, targets = _judge(network, vocabulary, log, keys, options, holdout_from_ms)
    progress(share + EVALUATION_SHARE)
    if fine_tune:
        fit(
            network,
            [examples(sequences(log, indices), options)],
            options,
            epochs=fine_tune,
            peak=FINE_TUNING,
            progress=lambda done: progress(1 - (1 - done) * (1 - share - EVALUATION_SHARE)),
        )
    first_ms, last_ms = int(log.times_ms[0]), int(log.times_ms[-1])
    return Trained(network, vocabulary, qualities, targets, first_ms, last_ms)


def _epochs(tokens: int, options: TrainingOptions) -> int:
    steps_an_epoch = max(1, tokens // options.tokens_a_batch)
    return max(options.epochs, math.ceil(options.least_steps / steps_an_epoch))


def make_vocabulary(
    log: EventLog, keys: NDArray[np.int64], half_life_days: float
) -> tuple[Vocabulary, NDArray[np.int64]]:
    """
    The vocabulary of *log*, and the 1-based item index of each of its items.

    Where two ids share a key, the lexicographically smaller one has it, as everywhere.
    """
    by_key: dict[int, str] = {}
    for key, one in zip(keys.tolist(), log.item_ids, strict=True):
        by_key[key] = min(one, by_key.get(key, one))
    ordered = np.array(sorted(by_key), np.int64)
    ages_days = (log.times_ms[-1] - log.times_ms) / DAY_MS
    indices = np.searchsorted(ordered, keys) + 1
    counts = np.bincount(
        indices[log.items] - 1, weights=0.5 ** (ages_days / half_life_days), minlength=len(ordered)
    )
    popularity = (counts / counts.sum()).astype(np.float32)
    item_ids = tuple(by_key[key] for key in ordered.tolist())
    return Vocabulary(item_ids, ordered, popularity), indices


def _judge(
    network: Network,
    vocabulary: Vocabulary,
    log: EventLog,
    keys: NDArray[np.int64],
    options: TrainingOptions,
    from_ms: int,
) -> tuple[dict[str, Quality], int]:
    targets = find_targets(log, from_ms)
    popular, markov = baseline_ranks(log, targets, options.popularity_half_life_days)
    version = Version(network, vocabulary.item_keys, vocabulary.popularity, options.k)
    ranker = model_ranks(version, log, keys, targets, options.history_length)
    ranks = {"ranker": ranker, "Markov chain": markov, "popularity": popular}
    return {name: quality(values) for name, values in ranks.items()}, len(targets.at)


def as_metrics(trained: Trained) -> dict[str, object]:
    """The qualities as the manifest keeps them."""
    rows = {name: asdict(one) for name, one in trained.qualities.items()}
    return {"targets": trained.targets, **rows}
