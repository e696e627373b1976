"""The examples of a training set, in memory one shard at a time."""

from collections.abc import Sequence
from dataclasses import replace
from typing import overload

import numpy as np
from numpy.typing import NDArray

from services.training.examples import Examples, Windows, examples, sequences
from services.training.log import Shard, TrainingSet
from services.training.options import TrainingOptions


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


class RecentShards(Shards):
    """
    What is new, and some of what is old, so that the old is not forgotten.

    Windows with a target since *since_ms* are all there; of the others, drawn at random, *replay*
    times as many.
    """

    def __init__(
        self,
        data: TrainingSet,
        indices: NDArray[np.int64],
        options: TrainingOptions,
        *,
        since_ms: int,
        until_ms: int,
        replay: float,
    ) -> None:
        super().__init__(data, indices, options, until_ms=until_ms)
        self._since_ms, self._replay = since_ms, replay

    def _examples(self, shard: Shard) -> Examples:
        made = super()._examples(shard)
        new = (made.weights > 0) & (made.found.times_ms >= self._since_ms)  # (N,)
        before = np.append(0, np.cumsum(new))  # (N + 1,) new targets before each token
        is_new = before[made.cut.ends] > before[made.cut.scored]  # (W,)
        old = np.flatnonzero(~is_new)
        drawn = min(len(old), round(self._replay * int(is_new.sum())))
        is_new[np.random.default_rng(self._options.seed).choice(old, drawn, replace=False)] = True
        cut = Windows(made.cut.starts[is_new], made.cut.ends[is_new], made.cut.scored[is_new])
        return replace(made, cut=cut)
