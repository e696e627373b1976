"""Rankers for a protocol: trained on what it lets them know, or a published version."""

import json
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from model_repo.ranker.serving import Version
from services.errors import CommandFailed
from services.evaluation.contest import Frozen, Progress
from services.evaluation.fusion import Array
from services.evaluation.network import DEPTH, Ranker
from services.evaluation.queries import Histories, Queries
from services.models.versions import MANIFEST
from services.training.continuing import Continuing, fine_tune, grown
from services.training.log import EventLog
from services.training.options import TrainingOptions
from services.training.pipeline import Trained, train
from services.training.vocabulary import Vocabulary
from stream.keys import item_key

DAY_MS = 86_400_000

Texts = NDArray[np.float16]  # (V, text_dim) of a log's items, 0 where one has no text


@dataclass(frozen=True)
class Learner:
    """
    How a protocol's ranker is trained.

    Attributes:
        log: Of which it is allowed to learn a part.
        texts: Of the log's items.
    """

    log: EventLog
    options: TrainingOptions
    texts: Texts | None = None

    def learn(self, allowed: NDArray[np.bool_], progress: Progress = lambda share: None) -> Trained:
        """What learning the events *allowed* ``(E,)`` gives; it does not know of other items."""
        past, texts = self._part(allowed)
        return train(
            past,
            replace(self.options, final_epochs=0, patience=0),  # nothing is held out here
            holdout_from_ms=past.last_ms + 1,
            text_vectors=texts,
            progress=progress,
        )

    def refresh(self, base: Trained, allowed: NDArray[np.bool_]) -> Trained:
        """What one more pass over the last seven days of the events *allowed* makes of *base*."""
        past, texts = self._part(allowed)
        return fine_tune(base, past, self.options, Continuing(), text_vectors=texts)

    def ranker(self, trained: Trained, histories: Histories) -> "Ranker":
        """
        *trained* as it would serve: items of the log that are newer are known by their text.

        Args:
            histories: Of the same catalogue.
        """
        vocabulary, network = trained.vocabulary, trained.network
        if self.texts is not None:
            every = np.array([item_key(one) for one in self.log.item_ids], np.int64)
            order = np.argsort(every)
            known = np.searchsorted(every[order], vocabulary.item_keys)
            popularity = np.zeros(len(every), np.float32)
            popularity[known] = vocabulary.popularity
            item_ids = tuple(self.log.item_ids[place] for place in order.tolist())
            larger = Vocabulary(item_ids, every[order], popularity)
            network = grown(network, vocabulary, larger, self.texts[order])
            newer = np.setdiff1d(np.arange(len(every)), known)
            with torch.no_grad():
                network.items.delta.weight[torch.from_numpy(newer) + 1] = 0  # text alone
            vocabulary = larger
        version = Version(network, vocabulary.item_keys, vocabulary.popularity, DEPTH)
        return Ranker(version, histories, self.options.history_length)

    def _part(self, allowed: NDArray[np.bool_]) -> tuple[EventLog, Texts | None]:
        """The events *allowed* as a log with no other items in its catalogue."""
        past = self.log.where(allowed)
        known, items = np.unique(past.items, return_inverse=True)
        item_ids = tuple(past.item_ids[place] for place in known.tolist())
        texts = None if self.texts is None else self.texts[known]
        return replace(past, item_ids=item_ids, items=items), texts


class Nightly:
    """A ranker that learns each day's events in the night after it: `headrace trainer`."""

    def __init__(self, learner: Learner, base: Trained, histories: Histories) -> None:
        self._learner, self._trained, self._histories = learner, base, histories
        self._ranker = learner.ranker(base, histories)
        self._day: int | None = None

    def __call__(self, queries: Queries) -> Array:
        """Logits of a block within one day, which begins with the night's training."""
        times_ms = self._learner.log.times_ms
        day = int(times_ms[queries.asked_at[0]]) // DAY_MS
        if self._day is not None and day != self._day:
            past = times_ms < day * DAY_MS
            self._trained = self._learner.refresh(self._trained, past)
            self._ranker = self._learner.ranker(self._trained, self._histories)
        self._day = day
        return self._ranker(queries)


def yesterday(frozen: Frozen, histories: Histories) -> Frozen:
    """*frozen*, asked in the night before for all of the day: what batch recommendation knows."""
    log = histories.log

    def scores(queries: Queries) -> Array:
        midnights = log.times_ms[queries.asked_at] // DAY_MS * DAY_MS
        before = histories.newest_before(queries.users, midnights)
        return frozen(replace(queries, before=before))

    return scores


def published(directory: Path, first_target_ms: int) -> tuple[Version, int]:
    """
    The version in *directory*, and the length of history that it is sent.

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
    return version, length
