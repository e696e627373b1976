"""
Training sets on disk: what each user had done when each of their actions came, in shards.

Arrivals are scattered over shards by user, and each shard is folded by itself, user by user. So
what is in memory at a time is a chunk of the log or a shard, however long the log is.
"""

import json
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import overload

import numpy as np
from numpy.typing import NDArray

from services.training.arrivals import ARRIVAL, Arrivals, Source, UnreadableLog, user_key
from services.training.fold import Actions, Role, fold_runs, in_order_of_arrival
from services.training.log import EventLog, Shard, log_of
from stream.context import price_buckets
from stream.history import Outcome
from stream.ranking import RankerInput

SHARD_EVENTS = 500_000  # some 30 MB
META = "dataset.json"
_NEVER = int(np.iinfo(np.int64).min)


class Dataset:
    """A training set in a directory; see the module."""

    def __init__(self, directory: Path) -> None:
        """
        Open what `write_dataset` finished.

        Raises:
            UnreadableLog: If there is none, or it is not whole.
        """
        self.directory = directory
        try:
            meta = json.loads((directory / META).read_bytes())
            self.item_ids: tuple[str, ...] = tuple(meta["item_ids"])
            self.item_keys = np.array(meta["item_keys"], np.int64)  # (V,) ascending
            self.actions = int(meta["actions"])
            self.first_ms, self.last_ms = int(meta["first_ms"]), int(meta["last_ms"])
            self.outcomes: dict[str, int] = meta["outcomes"]
            self._count = int(meta["shards"])
        except (OSError, ValueError, KeyError) as error:
            raise UnreadableLog(f"{directory} is no finished training set ({error!r}).") from error

    def shards(self) -> "Sequence[Shard]":
        """Its shards, each read from the disk when it is asked for."""
        return _Shards(self._count, self._shard)

    def newest(self, most: int) -> EventLog:
        """The newest *most* actions, or a few less, each once, in memory."""
        from_ms = self._from_ms(most)
        parts = [self._once(number, from_ms) for number in range(self._count)]
        return log_of(np.concatenate(parts), self.item_keys, self.item_ids).by_time()

    def first_seen_ms(self) -> NDArray[np.int64]:
        """``(V,)`` event time of each item's first action."""
        first = np.full(len(self.item_keys), self.last_ms, np.int64)
        for number in range(self._count):
            actions = self._actions(number)
            items = np.searchsorted(self.item_keys, actions["item_key"])
            np.minimum.at(first, items, actions["timestamp_ms"])
        return first

    def history(self, user_id: str, offset: int, length: int) -> RankerInput | None:
        """
        What training sees of *user_id* once the record at *offset* is folded.

        It is what `UserRow.ranker_input` gives at that moment: a test compares them. None where
        another action came out of order before any came in order: nothing is learnt there.
        """
        user = user_key(user_id)
        actions = self._actions(shard_of(np.array([user]), self._count).item())
        mine = actions[actions["user"] == user]
        known = mine[mine["offset"] <= offset]
        run = -1
        for one in np.unique(mine["run"]).tolist():
            copied = mine[(mine["run"] == one) & (mine["role"] != Role.IN_ORDER)]
            if (copied["offset"] <= offset).all():
                run = one
        if (known["run"][known["role"] == Role.OUT_OF_ORDER] > run).any():
            return None
        seen = known[known["run"] == run][-length:]
        newest_ms = seen["timestamp_ms"][-1] if len(seen) else 0
        return RankerInput(
            item_keys=seen["item_key"].copy(),
            event_types=seen["event_type"].astype(np.int32),
            ages_s=((newest_ms - seen["timestamp_ms"]) / 1000).astype(np.float32),
            price_buckets=price_buckets(seen["price"]),
            context=seen["context"].copy(),
        )

    def _actions(self, number: int) -> Actions:
        actions: Actions = np.load(_shard_file(self.directory, number), mmap_mode="r")
        return actions

    def _shard(self, number: int) -> Shard:
        actions = np.asarray(self._actions(number))
        return Shard(
            log_of(actions, self.item_keys, self.item_ids, users="run"),
            actions["role"] == Role.IN_ORDER,
        )

    def _once(self, number: int, from_ms: int) -> Actions:
        actions = self._actions(number)
        kept: Actions = actions[
            (actions["role"] != Role.COPY) & (actions["timestamp_ms"] >= from_ms)
        ]
        return kept

    def _from_ms(self, most: int) -> int:
        if self.actions <= most:
            return self.first_ms
        edges = np.linspace(self.first_ms, self.last_ms + 1, 4097)
        counts = np.zeros(4096, np.int64)
        for number in range(self._count):
            actions = self._actions(number)
            times = actions["timestamp_ms"][actions["role"] != Role.COPY]
            counts += np.histogram(times, edges)[0]
        newer = np.cumsum(counts[::-1])[::-1]  # (4096,) actions from each edge on
        return int(np.ceil(edges[:-1][newer <= most].min(initial=edges[-1])))


@dataclass(frozen=True)
class _Shards(Sequence[Shard]):
    shards: int
    read: Callable[[int], Shard]

    def __len__(self) -> int:
        return self.shards

    @overload
    def __getitem__(self, number: int) -> Shard: ...
    @overload
    def __getitem__(self, number: slice) -> Sequence[Shard]: ...
    def __getitem__(self, number: int | slice) -> Shard | Sequence[Shard]:
        if isinstance(number, slice):
            return [self.read(one) for one in range(self.shards)[number]]
        return self.read(range(self.shards)[number])


def write_dataset(source: Source, directory: Path, *, shard_events: int = SHARD_EVENTS) -> Dataset:
    """
    Fold *source* into a training set in *directory*, which is made.

    Raises:
        UnreadableLog: If an event cannot be read, or there is no action on an item.
    """
    directory.mkdir(parents=True, exist_ok=True)
    (directory / META).unlink(missing_ok=True)
    count = max(1, -(-source.about // shard_events))
    _scatter(source, directory, count)
    outcomes: Counter[Outcome] = Counter()
    keys: set[int] = set()
    total, first_ms, last_ms = 0, np.iinfo(np.int64).max, _NEVER
    for number in range(count):
        arrivals = np.fromfile(_bucket(directory, number), ARRIVAL)
        actions, became = fold_runs(in_order_of_arrival(arrivals, by_time=source.by_time))
        np.save(_shard_file(directory, number), actions)
        _bucket(directory, number).unlink(missing_ok=True)
        outcomes += became
        keys.update(np.unique(actions["item_key"]).tolist())
        total += int((actions["role"] != Role.COPY).sum())
        first_ms = min(first_ms, int(actions["timestamp_ms"].min(initial=first_ms)))
        last_ms = max(last_ms, int(actions["timestamp_ms"].max(initial=last_ms)))
    if not total:
        raise UnreadableLog(f"{source.path}: no actions on items to train on.")
    ordered = sorted(keys)
    meta = {
        "actions": total,
        "shards": count,
        "first_ms": first_ms,
        "last_ms": last_ms,
        "outcomes": {outcome.name.lower(): number for outcome, number in outcomes.items()},
        "item_keys": ordered,
        "item_ids": [source.names.ids[key] for key in ordered],
    }
    # Last, and whole or not at all: a directory without it is no training set.
    unfinished = directory / f".{META}"
    unfinished.write_text(json.dumps(meta))
    unfinished.rename(directory / META)
    return Dataset(directory)


def shard_of(users: NDArray[np.int64], shards: int) -> NDArray[np.int64]:
    """``(n,)`` the shard of each user key."""
    return (users.astype(np.uint64) % np.uint64(shards)).astype(np.int64)


def _scatter(source: Source, directory: Path, shards: int) -> None:
    for number in range(shards):
        _bucket(directory, number).write_bytes(b"")
    for arrivals in filter(len, source.chunks):
        places = shard_of(arrivals["user"], shards)
        order = np.argsort(places, kind="stable")
        for number, part in _split(arrivals[order], places[order]):
            with _bucket(directory, number).open("ab") as file:
                file.write(part.tobytes())


def _split(arrivals: Arrivals, places: NDArray[np.int64]) -> Iterator[tuple[int, Arrivals]]:
    numbers, first = np.unique(places, return_index=True)
    yield from zip(numbers.tolist(), np.split(arrivals, first[1:]), strict=True)


def _bucket(directory: Path, number: int) -> Path:
    return directory / f"bucket-{number:05}.unfinished"


def _shard_file(directory: Path, number: int) -> Path:
    return directory / f"shard-{number:05}.npy"
