"""Train, judge on what was held out, then learn that too: one run from log to network."""

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from model_repo.ranker.network import Network
from services.training.arrivals import UnreadableLog
from services.training.checkpoints import Checkpoint
from services.training.evaluation import Quality
from services.training.examples import Examples
from services.training.judge import Judge
from services.training.log import TrainingSet
from services.training.memory import keep_freed_memory
from services.training.options import TrainingOptions
from services.training.shards import Shards
from services.training.trainer import EarlyStop, fit, new_network
from services.training.vocabulary import Vocabulary, by_index, make_vocabulary
from stream.keys import item_key

FINE_TUNING = 0.3  # of the learning rate, for the last epochs on everything
EVALUATION_SHARE = 0.05  # of the progress bar

Progress = Callable[[float], None]


@dataclass(frozen=True)
class Trained:
    """
    What a run gives: a network, what it knows, and how good it was before the last epochs.

    Attributes:
        qualities: Of the network, of the baselines, and of the network as it was `before`, if it
            was gone on from.
        protocol: What the qualities were measured on.
        created_at: When it was released, if it was read from a version.
        continues: The same of the version that was gone on from.
    """

    network: Network
    vocabulary: Vocabulary
    qualities: dict[str, Quality]
    targets: int
    first_ms: int
    last_ms: int
    protocol: str = ""
    created_at: str | None = None
    continues: str | None = None


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
    keys = np.array([item_key(one) for one in data.item_ids], np.int64)
    vocabulary, indices = make_vocabulary(data, keys, options.popularity_half_life_days)
    past = Shards(data, indices, options, until_ms=holdout_from_ms)
    everything = Shards(data, indices, options, until_ms=data.last_ms + 1)
    texts = None if text_vectors is None else by_index(text_vectors, indices)
    network = new_network(len(vocabulary.item_keys), options, texts).to(device)
    return teach(
        network,
        vocabulary,
        data,
        options,
        first=Lesson(past, _epochs(_tokens(past), options), peak=1.0),
        last=Lesson(everything, options.final_epochs, peak=FINE_TUNING),
        holdout_from_ms=holdout_from_ms,
        progress=progress,
        keep_in=keep_in,
    )


@dataclass(frozen=True)
class Lesson:
    """What to learn from, how many times, and with how much of the learning rate."""

    shards: Sequence[Examples]
    epochs: int
    peak: float


def teach(
    network: Network,
    vocabulary: Vocabulary,
    data: TrainingSet,
    options: TrainingOptions,
    *,
    first: Lesson,
    last: Lesson,
    holdout_from_ms: int,
    progress: Progress,
    keep_in: Path | None = None,
    is_trained: bool = False,
) -> Trained:
    """
    Have *network* learn *first*, judge it on what comes after, and have it learn *last*.

    One that *is_trained* is judged on the same before it learns anything.

    Without a held-out part *last* is left out: there is nothing in it that is new.

    Raises:
        UnreadableLog: If there is nothing to learn from.
    """
    torch.set_num_threads(options.threads)
    keep_freed_memory()
    if not sum(map(len, first.shards)):
        raise UnreadableLog(
            "nothing to learn from before the held-out part: no user acted on two items. "
            "Give a longer log or hold out less (--holdout)."
        )
    judge = Judge(data, vocabulary, options, holdout_from_ms)
    epochs_after = last.epochs if holdout_from_ms <= data.last_ms else 0
    share = (1 - EVALUATION_SHARE) * first.epochs / (first.epochs + epochs_after)
    run = {**asdict(options), "holdout_from_ms": holdout_from_ms, "last_ms": data.last_ms}

    before = {"before": judge.quality(network)} if is_trained and judge.targets else {}

    def kept(part: str) -> Checkpoint | None:
        return Checkpoint(keep_in / f"{part}.safetensors", run=run) if keep_in else None

    fit(
        network,
        first.shards,
        options,
        epochs=first.epochs,
        peak=first.peak,
        progress=lambda done: progress(done * share),
        checkpoint=kept("learn"),
        stop=EarlyStop(judge.ndcg, options.patience) if options.patience else None,
    )
    qualities = {**judge.table(network), **before} if judge.targets else {}
    progress(share + EVALUATION_SHARE)
    if epochs_after:
        fit(
            network,
            last.shards,
            options,
            epochs=epochs_after,
            peak=last.peak,
            progress=lambda done: progress(1 - (1 - done) * (1 - share - EVALUATION_SHARE)),
            checkpoint=kept("final"),
        )
    return Trained(
        network.cpu(),
        vocabulary,
        qualities,
        judge.targets,
        data.first_ms,
        data.last_ms,
        protocol=f"next item in the session, {iso(holdout_from_ms)} to {iso(data.last_ms)}"
        if judge.targets
        else "",
    )


def _tokens(shards: Sequence[Examples]) -> int:
    return sum(len(one.found.rows) for one in shards)


def _epochs(tokens: int, options: TrainingOptions) -> int:
    steps_an_epoch = max(1, tokens // options.tokens_a_batch)
    return max(options.epochs, math.ceil(options.least_steps / steps_an_epoch))


def as_metrics(trained: Trained) -> dict[str, object]:
    """The qualities as the manifest keeps them."""
    rows: dict[str, dict[str, Any]] = {name: asdict(one) for name, one in trained.qualities.items()}
    if "before" in rows:
        rows["before"]["created_at"] = trained.continues
    return {"protocol": trained.protocol, "targets": trained.targets, **rows}


def iso(epoch_ms: int) -> str:
    """RFC 3339, to the millisecond."""
    return datetime.fromtimestamp(epoch_ms / 1000, UTC).isoformat(timespec="milliseconds")
