"""Rankers for a protocol: trained on what it lets them know, or a published version."""

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from model_repo.ranker.network import Network
from model_repo.ranker.serving import Version
from services.errors import CommandFailed
from services.evaluation.contest import Frozen
from services.evaluation.network import DEPTH, Ranker
from services.evaluation.queries import Histories
from services.models.versions import MANIFEST
from services.training.log import EventLog
from services.training.options import TrainingOptions
from services.training.pipeline import Progress, train
from stream.keys import item_key

Texts = NDArray[np.float16]  # (V, text_dim) of a log's items, 0 where one has no text


@dataclass(frozen=True)
class Learner:
    """How a protocol's ranker is trained."""

    options: TrainingOptions
    texts: Texts | None = None

    def learn(
        self, log: EventLog, allowed: NDArray[np.bool_], progress: Progress = lambda share: None
    ) -> Callable[[Histories], Frozen]:
        """
        A ranker that has learnt the events *allowed* ``(E,)`` of *log*, and no other item's name.

        Items that are in none of these events are newcomers, as in a shop: known by their text if
        there is any, else not recommended.
        """
        known = np.unique(log.items[allowed])  # (W,) places in the log's catalogue
        past = _narrowed(log.where(allowed), known)
        found = train(
            past,
            replace(self.options, final_epochs=0, patience=0),  # nothing is held out here
            holdout_from_ms=past.last_ms + 1,
            text_vectors=None if self.texts is None else self.texts[known],
            progress=progress,
        )
        network, keys = found.network, found.vocabulary.item_keys
        popularity = found.vocabulary.popularity
        if self.texts is not None:
            every = np.array([item_key(item_id) for item_id in log.item_ids], np.int64)
            network, popularity = with_newcomers(network, keys, popularity, every, self.texts)
            keys = np.sort(every)
        version = Version(network, keys, popularity, DEPTH)
        return lambda histories: Ranker(version, histories, self.options.history_length)


def with_newcomers(
    network: Network,
    keys: NDArray[np.int64],
    popularity: NDArray[np.float32],
    every: NDArray[np.int64],
    texts: Texts,
) -> tuple[Network, NDArray[np.float32]]:
    """
    The same network for a larger catalogue, with what is new known by its text alone.

    Args:
        keys: ``(W,)`` ascending item keys that *network* knows.
        popularity: ``(W,)`` of them.
        every, texts: ``(V,)`` and ``(V, text_dim)``: all item keys, those of *keys* among them.

    Returns:
        The network for the ascending keys of *every*, and the popularity ``(V,)`` of these.
    """
    order = np.argsort(every)
    places = np.searchsorted(every[order], keys)  # (W,)
    state = network.state_dict()
    delta = torch.zeros(len(every) + 1, network.shape.dim)
    delta[torch.from_numpy(places) + 1] = state["items.delta.weight"][1:]
    state["items.delta.weight"] = delta
    padded = np.concatenate([np.zeros((1, texts.shape[1]), texts.dtype), texts[order]])
    state["items.text_vectors"] = torch.from_numpy(padded)
    grown = Network(replace(network.shape, items=len(every)))
    grown.load_state_dict(state)
    shares = np.zeros(len(every), np.float32)
    shares[places] = popularity
    return grown, shares


def published(directory: Path, first_target_ms: int) -> Callable[[Histories], Frozen]:
    """
    The version in *directory*.

    Raises:
        CommandFailed: If it is none, or has learnt the time that it is to be judged on.
    """
    try:
        manifest = json.loads((directory / MANIFEST).read_text())
        version = Version.load(directory, DEPTH)
        learnt_to = manifest["data_range"][1]
        length = int(manifest["history_length"])
    except (OSError, ValueError, KeyError) as error:
        raise CommandFailed(f"{directory} is not a version of the ranker ({error}).") from error
    if datetime.fromisoformat(learnt_to).timestamp() * 1000 >= first_target_ms:
        raise CommandFailed(
            f"{directory} has learnt events up to {learnt_to}, after the first target: it would be "
            "asked what it knows. Judge it on later events (--since), or train one with --until."
        )
    return lambda histories: Ranker(version, histories, length)


def _narrowed(log: EventLog, known: NDArray[np.int64]) -> EventLog:
    """The same events, the catalogue being the items *known* ``(W,)`` only."""
    item_ids = tuple(log.item_ids[place] for place in known.tolist())
    return replace(log, item_ids=item_ids, items=np.searchsorted(known, log.items))
