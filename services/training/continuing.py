"""
Going on from a version: the newest events are learnt, with some of the old ones, in seconds.

The network starts as it was, the optimiser fresh and the learning rate small. New items start as
their text says, or at random where there is none; all others keep what was learnt of them.
"""

import json
from dataclasses import dataclass, fields, replace
from datetime import datetime
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError

from model_repo.ranker.network import Network
from model_repo.ranker.serving import Version
from services.errors import CommandFailed
from services.models.versions import MANIFEST
from services.training.log import TrainingSet
from services.training.options import TrainingOptions
from services.training.pipeline import Lesson, Progress, Trained, teach
from services.training.release import ITEM_IDS
from services.training.shards import RecentShards
from services.training.vocabulary import Vocabulary, make_vocabulary
from stream.keys import item_key

RATE = 0.3  # of the learning rate that the version was trained with
REPLAY = 0.5  # old windows for each new one
DAY_MS = 86_400_000


@dataclass(frozen=True)
class Continuing:
    """
    How to go on.

    Attributes:
        days: What counts as new: so much before the newest event.
        epochs: Passes over it.
        replay: Old windows for each new one.
    """

    days: float = 7.0
    epochs: int = 1
    replay: float = REPLAY


def load_trained(directory: Path) -> tuple[Trained, TrainingOptions]:
    """
    A version as training left it, and the choices that it was trained with.

    Raises:
        CommandFailed: If it was not made by `headrace train`, or by an older one.
    """
    try:
        manifest = json.loads((directory / MANIFEST).read_text())
        known = {field.name for field in fields(TrainingOptions)}
        options = {name: one for name, one in manifest["options"].items() if name in known}
        item_ids = tuple(json.loads((directory / ITEM_IDS).read_text()))
        version = Version.load(directory)
        first, last = (datetime.fromisoformat(one) for one in manifest["data_range"])
    except (OSError, ValueError, KeyError, TypeError, RuntimeError, SafetensorError) as error:
        raise CommandFailed(
            f"{directory} cannot be gone on from ({type(error).__name__}: {error}). "
            "Train a version anew, without --continue."
        ) from error
    vocabulary = Vocabulary(item_ids, version.item_keys, version.popularity)
    first_ms, last_ms = (round(one.timestamp() * 1000) for one in (first, last))
    trained = Trained(
        version.network,
        vocabulary,
        qualities={},
        targets=0,
        first_ms=first_ms,
        last_ms=last_ms,
        created_at=str(manifest["created_at"]),
    )
    return trained, TrainingOptions(**options)


def fine_tune(
    base: Trained,
    data: TrainingSet,
    options: TrainingOptions,
    how: Continuing,
    *,
    holdout_from_ms: int | None = None,
    text_vectors: NDArray[np.float16] | None = None,
    progress: Progress = lambda share: None,
    device: str = "cpu",
    keep_in: Path | None = None,
) -> Trained:
    """
    Teach *base* the newest events of *data*; *base* itself stays as it is.

    Args:
        data: New events, and older ones of the same users: their histories, and what is replayed.
        options: Those of *base*.
        holdout_from_ms: Judge on what comes from then on before it is learnt too; None: learn all
            at once.
        text_vectors: ``(V, text_dim)`` of the items of *data*; used for those that are new.

    Raises:
        UnreadableLog: If nothing is new.
    """
    since_ms = data.last_ms + 1 - round(how.days * DAY_MS)
    from_ms = data.last_ms + 1 if holdout_from_ms is None else holdout_from_ms
    options = replace(options, patience=0)
    keys = np.array([item_key(one) for one in data.item_ids], np.int64)
    vocabulary = _grown_vocabulary(base.vocabulary, data, keys, options)
    indices = np.searchsorted(vocabulary.item_keys, keys) + 1
    texts = None
    if text_vectors is not None and base.network.shape.text_dim:
        texts = np.zeros((len(vocabulary.item_keys), text_vectors.shape[1]), text_vectors.dtype)
        texts[indices - 1] = text_vectors
    network = grown(base.network, base.vocabulary, vocabulary, texts).to(device)

    def lesson(since_ms: int, until_ms: int) -> Lesson:
        shards = RecentShards(
            data, indices, options, since_ms=since_ms, until_ms=until_ms, replay=how.replay
        )
        return Lesson(shards, how.epochs, RATE)

    trained = teach(
        network,
        vocabulary,
        data,
        options,
        first=lesson(since_ms, from_ms),
        last=lesson(from_ms, data.last_ms + 1),
        holdout_from_ms=from_ms,
        progress=progress,
        keep_in=keep_in,
        is_trained=True,
    )
    first_ms = min(base.first_ms, data.first_ms)
    return replace(trained, first_ms=first_ms, continues=base.created_at)


def grown(
    network: Network,
    before: Vocabulary,
    after: Vocabulary,
    text_vectors: NDArray[np.float16] | None,
) -> Network:
    """
    A copy of *network* that knows the items of *after*, which are those of *before* and new ones.

    Args:
        text_vectors: ``(V, text_dim)`` of the items of *after*, 0 where it is not known.
    """
    larger = Network(replace(network.shape, items=len(after.item_keys)))
    if text_vectors is not None:
        larger.set_text(torch.from_numpy(text_vectors))
    rows = torch.from_numpy(np.append(0, np.searchsorted(after.item_keys, before.item_keys) + 1))
    state = larger.state_dict()
    for name, values in network.state_dict().items():
        if name.startswith("items.") and len(values) == len(rows):
            state[name][rows] = values.cpu()  # of an item: by its key, wherever that is now
        else:
            state[name] = values.cpu()
    larger.load_state_dict(state)
    return larger.eval()


def _grown_vocabulary(
    before: Vocabulary, data: TrainingSet, keys: NDArray[np.int64], options: TrainingOptions
) -> Vocabulary:
    """The items of *before* and of *data*; popularity is that of *data*."""
    now, _ = make_vocabulary(data, keys, options.popularity_half_life_days)
    names = dict(zip(before.item_keys.tolist(), before.item_ids, strict=True))
    for key, item_id in zip(now.item_keys.tolist(), now.item_ids, strict=True):
        names[key] = min(item_id, names.get(key, item_id))
    item_keys = np.array(sorted(names), np.int64)
    popularity = np.zeros(len(item_keys), np.float32)
    popularity[np.searchsorted(item_keys, now.item_keys)] = now.popularity
    return Vocabulary(tuple(names[key] for key in item_keys.tolist()), item_keys, popularity)
