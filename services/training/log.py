"""An event log as columns in memory: what evaluation reads, and one shard of a training set."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from services.logs.columns import Column
from services.training.arrivals import ARRIVAL, UnreadableLog
from services.training.fold import Actions, Role, fold_runs, in_order_of_arrival
from services.training.sources import open_source

__all__ = ["EventLog", "Shard", "TrainingSet", "UnreadableLog", "log_of", "read_log"]


@dataclass(frozen=True)
class EventLog:
    """
    Actions on items, by time; those of one millisecond in the order of the log.

    Attributes:
        item_ids: ``(V,)`` external ids; `items` are places in it.
        users, items, types, times_ms, sessions: ``(E,)``. A session is one of one user, -1 if
            the log does not say.
        prices: ``(E,)`` NaN where the log does not say.
        contexts: ``(E,)`` packed; see `stream.context.pack`.
    """

    item_ids: tuple[str, ...]
    users: NDArray[np.int64]
    items: NDArray[np.int64]
    types: NDArray[np.int64]
    times_ms: NDArray[np.int64]
    sessions: NDArray[np.int64]
    prices: NDArray[np.float32]
    contexts: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.users)

    @property
    def first_ms(self) -> int:
        """Event time of the oldest action."""
        return int(self.times_ms[0])

    @property
    def last_ms(self) -> int:
        """Event time of the newest action."""
        return int(self.times_ms[-1])

    def shards(self) -> "Sequence[Shard]":
        """All of it as the one shard of a training set."""
        return [Shard(self, np.ones(len(self), bool))]

    def newest(self, most: int) -> "EventLog":
        """The newest *most* actions."""
        return self.where(np.arange(len(self)) >= len(self) - most)

    def where(self, mask: NDArray[np.bool_]) -> "EventLog":
        """Only the events in *mask*, with the same item ids."""
        return EventLog(self.item_ids, *(column[mask] for column in self._columns()))

    def by_time(self) -> "EventLog":
        """The same events in order of time; those of one millisecond stay as they were."""
        order = np.argsort(self.times_ms, kind="stable")
        return EventLog(self.item_ids, *(column[order] for column in self._columns()))

    def _columns(self) -> tuple[NDArray[Any], ...]:
        actions = (self.users, self.items, self.types, self.times_ms)
        return (*actions, self.sessions, self.prices, self.contexts)


@dataclass(frozen=True)
class Shard:
    """
    Some of the users of a training set, with all that they did.

    Attributes:
        log: Actions by run (see `services.training.fold`), by time within; its `users` are runs.
        fresh: ``(E,)`` whether an action may be a target in its run.
    """

    log: EventLog
    fresh: NDArray[np.bool_]


class TrainingSet(Protocol):
    """What training reads: a log in memory, or a `Dataset` on the disk."""

    @property
    def item_ids(self) -> tuple[str, ...]:
        """``(V,)`` external ids; the logs' `items` are places in it."""
        ...

    @property
    def first_ms(self) -> int:
        """Event time of the oldest action."""
        ...

    @property
    def last_ms(self) -> int:
        """Event time of the newest action."""
        ...

    def shards(self) -> Sequence[Shard]:
        """The users in shards, each in memory only while it is used."""
        ...

    def newest(self, most: int) -> EventLog:
        """The newest *most* actions, or a few less, each once, by time."""
        ...


def read_log(path: Path, mapping: Mapping[str, Column]) -> EventLog:
    """
    Read *path* whole: a Parquet file, JSON Lines, or a directory written by the archiver.

    Raises:
        UnreadableLog: If a column is missing, or an event cannot be read.
    """
    source = open_source(path, mapping)
    arrivals = np.concatenate([np.empty(0, ARRIVAL), *source.chunks])
    actions, _ = fold_runs(in_order_of_arrival(arrivals, by_time=source.by_time))
    actions = actions[actions["role"] != Role.COPY]
    if len(actions) == 0:
        raise UnreadableLog(f"{path}: no actions on items to train on.")
    actions = actions[np.lexsort((actions["offset"], actions["timestamp_ms"]))]
    keys = np.unique(actions["item_key"])
    return log_of(actions, keys, [source.names.ids[key] for key in keys.tolist()])


def log_of(
    actions: Actions, item_keys: NDArray[np.int64], item_ids: Sequence[str], *, users: str = "user"
) -> EventLog:
    """
    *actions* as a log, in their order.

    Args:
        item_keys, item_ids: ``(V,)`` of all the items, keys ascending.
        users: The field that tells whose an action is: ``user``, or ``run``.
    """
    _, sessions = np.unique(actions["session"], return_inverse=True)
    return EventLog(
        item_ids=tuple(item_ids),
        users=np.unique(actions[users], return_inverse=True)[1],
        items=np.searchsorted(item_keys, actions["item_key"]),
        types=actions["event_type"].astype(np.int64),
        times_ms=actions["timestamp_ms"].astype(np.int64),
        sessions=np.where(actions["session"] == -1, -1, sessions),
        prices=actions["price"].copy(),
        contexts=actions["context"].astype(np.int64),
    )
