"""Train, judge on what was held out, then learn that too: one run from log to network."""

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import overload

import numpy as np
import torch
from numpy.typing import NDArray

from model_repo.ranker.network import Network
from model_repo.ranker.serving import Version
from services.training.checkpoints import Checkpoint
from services.training.evaluation import (
    DAY_MS,
    Quality,
    Targets,
    baseline_ranks,
    find_targets,
    model_ranks,
    quality,
)
from services.training.examples import Examples, examples, sequences
from services.training.log import EventLog, Shard, TrainingSet, UnreadableLog
from services.training.memory import keep_freed_memory
from services.training.options import TrainingOptions
from services.training.trainer import EarlyStop, fit, new_network
from stream.keys import item_key

FINE_TUNING = 0.3  # of the learning rate, for the last epochs on everything
EVALUATION_SHARE = 0.05  # of the progress bar
JUDGED_ACTIONS = (
    2_000_000  # the newest ones, in memory: on them, and what led to them, it is judged
)
QUICK_TARGETS = 2_000  # for stopping early

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


class Shards(Sequence[Examples]):
    """The examples of a training set, made shard by shard when they are asked for."""

    def __init__(
        self,
        data: TrainingSet,
        indices: NDArray[np.int64],
        options: TrainingOptions,
        *,
        until_ms: int,
    ) -> None:
        """Learn from the actions before *until_ms*; *indices* as for `sequences`."""
        self._shards = data.shards()
        self._indices, self._options, self._until_ms = indices, options, until_ms
        self._made: tuple[int, Examples] | None = None  # the last one: there may be only one

    def __len__(self) -> int:
        return len(self._shards)

    @overload
    def __getitem__(self, number: int) -> Examples: ...
    @overload
    def __getitem__(self, number: slice) -> list[Examples]: ...
    def __getitem__(self, number: int | slice) -> Examples | list[Examples]:
        if isinstance(number, slice):
            return [self[one] for one in range(len(self))[number]]
        if self._made is None or self._made[0] != number:
            self._made = None  # before the next one is made: two need not be in memory
            self._made = number, self._examples(self._shards[number])
        return self._made[1]

    def _examples(self, shard: Shard) -> Examples:
        past = shard.log.times_ms < self._until_ms
        found = sequences(shard.log.where(past), self._indices, shard.fresh[past])
        return examples(found, self._options)


def train(
    data: TrainingSet,
    options: TrainingOptions,
    *,
    holdout_from_ms: int,
    progress: Progress = lambda share: None,
    text_vectors: NDArray[np.float16] | None = None,
    device: str = "cpu",
    keep_in: Path | None = None,
) -> Trained:
    """
    Train on the events before *holdout_from_ms*, judge on the rest, then fine-tune on it too.

    Items of the held-out part alone are in the vocabulary (a day-zero slate may need them), but
    untrained while the judging goes on.

    Args:
        text_vectors: ``(V, text_dim)`` of the set's items; 0 where one has no text.
        device: ``cpu`` or ``cuda``.
        keep_in: A directory for checkpoints, and to go on from those that are there.

    Raises:
        UnreadableLog: If too little is left to learn from.
    """
    torch.set_num_threads(options.threads)
    keep_freed_memory()
    keys = np.array([item_key(one) for one in data.item_ids], np.int64)
    vocabulary, indices = make_vocabulary(data, keys, options.popularity_half_life_days)
    past = Shards(data, indices, options, until_ms=holdout_from_ms)
    tokens, windows = np.sum([(len(one.found.rows), len(one)) for one in past], axis=0).tolist()
    if not windows:
        raise UnreadableLog(
            "nothing to learn from before the held-out part: no user acted on two items. "
            "Give a longer log or hold out less (--holdout)."
        )
    everything = Shards(data, indices, options, until_ms=data.last_ms + 1)
    fine_tune = options.final_epochs if holdout_from_ms <= data.last_ms else 0
    epochs = _epochs(tokens, options)
    share = (1 - EVALUATION_SHARE) * epochs / (epochs + fine_tune)
    texts = None if text_vectors is None else by_index(text_vectors, indices)
    network = new_network(len(vocabulary.item_keys), options, texts).to(device)
    judge = Judge(data.newest(JUDGED_ACTIONS), keys, vocabulary, options, holdout_from_ms)
    run = {**asdict(options), "holdout_from_ms": holdout_from_ms, "last_ms": data.last_ms}

    def kept(part: str) -> Checkpoint | None:
        return Checkpoint(keep_in / f"{part}.safetensors", run=run) if keep_in else None

    fit(
        network,
        past,
        options,
        epochs=epochs,
        progress=lambda done: progress(done * share),
        checkpoint=kept("learn"),
        stop=EarlyStop(judge.ndcg, options.patience) if options.patience else None,
    )
    qualities, targets = judge.table(network)
    progress(share + EVALUATION_SHARE)
    if fine_tune:
        fit(
            network,
            everything,
            options,
            epochs=fine_tune,
            peak=FINE_TUNING,
            progress=lambda done: progress(1 - (1 - done) * (1 - share - EVALUATION_SHARE)),
            checkpoint=kept("final"),
        )
    network = network.cpu()
    return Trained(network, vocabulary, qualities, targets, data.first_ms, data.last_ms)


def _epochs(tokens: int, options: TrainingOptions) -> int:
    steps_an_epoch = max(1, tokens // options.tokens_a_batch)
    return max(options.epochs, math.ceil(options.least_steps / steps_an_epoch))


def by_index(values: NDArray[np.float16], indices: NDArray[np.int64]) -> NDArray[np.float16]:
    """Rows ``(V, n)`` of a set's items as rows of the network's, whose *indices* are 1-based."""
    ordered = np.zeros((indices.max(initial=0), values.shape[1]), values.dtype)
    ordered[indices - 1] = values
    return ordered


def make_vocabulary(
    data: TrainingSet, keys: NDArray[np.int64], half_life_days: float
) -> tuple[Vocabulary, NDArray[np.int64]]:
    """
    The vocabulary of *data*, and the 1-based item index of each of its items.

    Where two ids share a key, the lexicographically smaller one has it, as everywhere.
    """
    by_key: dict[int, str] = {}
    for key, one in zip(keys.tolist(), data.item_ids, strict=True):
        by_key[key] = min(one, by_key.get(key, one))
    ordered = np.array(sorted(by_key), np.int64)
    indices = np.searchsorted(ordered, keys) + 1
    counts = np.zeros(len(ordered))
    for shard in data.shards():
        ages_days = (data.last_ms - shard.log.times_ms) / DAY_MS
        weights = shard.fresh * 0.5 ** (ages_days / half_life_days)
        counts += np.bincount(indices[shard.log.items] - 1, weights, minlength=len(ordered))
    popularity = (counts / counts.sum()).astype(np.float32)
    item_ids = tuple(by_key[key] for key in ordered.tolist())
    return Vocabulary(item_ids, ordered, popularity), indices


class Judge:
    """Measures a network on the part of a log that it has not learnt."""

    def __init__(
        self,
        log: EventLog,
        keys: NDArray[np.int64],
        vocabulary: Vocabulary,
        options: TrainingOptions,
        from_ms: int,
    ) -> None:
        """*keys* ``(V,)`` are those of the log's items; targets begin at *from_ms*."""
        self._log, self._keys, self._vocabulary, self._options = log, keys, vocabulary, options
        self._targets = find_targets(log, from_ms)

    def table(self, network: Network) -> tuple[dict[str, Quality], int]:
        """Its quality beside that of the baselines, and on how many targets."""
        half_life_days = self._options.popularity_half_life_days
        popular, markov = baseline_ranks(self._log, self._targets, half_life_days)
        ranker = self._ranks(network, self._targets)
        ranks = {"ranker": ranker, "Markov chain": markov, "popularity": popular}
        return {name: quality(values) for name, values in ranks.items()}, len(self._targets.at)

    def ndcg(self, network: Network) -> float:
        """NDCG@10 on some of the targets, spread evenly: enough to tell when to stop."""
        every = max(1, len(self._targets.at) // QUICK_TARGETS)
        some = Targets(self._targets.at[::every], self._targets.before[::every])
        return quality(self._ranks(network, some)).ndcg_at_10

    def _ranks(self, network: Network, targets: Targets) -> NDArray[np.int64]:
        version = Version(
            network, self._vocabulary.item_keys, self._vocabulary.popularity, self._options.k
        )
        return model_ranks(version, self._log, self._keys, targets, self._options.history_length)


def as_metrics(trained: Trained) -> dict[str, object]:
    """The qualities as the manifest keeps them."""
    rows = {name: asdict(one) for name, one in trained.qualities.items()}
    return {"targets": trained.targets, **rows}
