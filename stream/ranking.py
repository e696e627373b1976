"""What the pipeline asks of a ranker, whoever answers. Triton does: `services.models.triton`."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, overload

import numpy as np
from numpy.typing import NDArray

from stream.recommendation import ModelVersion


class RankerUnavailable(Exception):
    """
    No answer in time, or none that can be used. The slate comes from the live sources.

    The message begins with its kind and a colon.
    """

    @property
    def kind(self) -> str:
        """One of few words, so that a metric may count by it."""
        return str(self).partition(":")[0]


@dataclass(frozen=True, slots=True)
class RankerInput:
    """One user's history as the ranker reads it: parallel arrays, newest last, not padded."""

    item_keys: NDArray[np.int64]  # (L,)
    event_types: NDArray[np.int32]  # (L,) codes of `EventType`
    ages_s: NDArray[np.float32]  # (L,) seconds before the newest interaction; the last is 0
    price_buckets: NDArray[np.int32]  # (L,) see `stream.context.price_buckets`
    context: NDArray[np.int32]  # (L,) see `stream.context.pack`


class RankerInputs(Sequence[RankerInput]):
    """
    The histories of many users, one after the other.

    A list of `RankerInput` would have five small arrays for each, to be made and to be copied.

    Args:
        together: ``(n,)`` of all users.
        lengths: ``(B,)`` how much of it is each user's.
    """

    def __init__(self, together: RankerInput, lengths: NDArray[np.int64]) -> None:
        self.together = together
        self.lengths = lengths
        self._ends = lengths.cumsum()

    @classmethod
    def of(cls, inputs: Sequence[RankerInput]) -> "RankerInputs":
        """The same, whatever sequence they are in."""
        if isinstance(inputs, RankerInputs):
            return inputs
        columns = zip(*map(_columns, inputs), strict=True)
        lengths = np.array([len(one.item_keys) for one in inputs], np.int64)
        return cls(RankerInput(*map(np.concatenate, columns)), lengths)

    def __len__(self) -> int:
        return len(self.lengths)

    @overload
    def __getitem__(self, at: int) -> RankerInput: ...
    @overload
    def __getitem__(self, at: slice) -> "RankerInputs": ...
    def __getitem__(self, at: int | slice) -> "RankerInput | RankerInputs":
        if isinstance(at, slice):
            chosen = np.zeros(len(self), bool)
            chosen[at] = True
            return self.where(chosen)
        end = self._ends[at]
        return _of(self.together, slice(end - self.lengths[at], end))

    def where(self, chosen: NDArray[np.bool_]) -> "RankerInputs":
        """Those users of whom *chosen* ``(B,)`` is true."""
        if chosen.all():
            return self
        return RankerInputs(
            _of(self.together, np.repeat(chosen, self.lengths)), self.lengths[chosen]
        )

    def newest(self, length: int) -> "RankerInputs":
        """Of each user at most the newest *length*."""
        if (self.lengths <= length).all():
            return self
        before_end = np.repeat(self._ends, self.lengths) - np.arange(len(self.together.item_keys))
        kept = _of(self.together, before_end <= length)
        return RankerInputs(kept, np.minimum(self.lengths, length))


def _columns(one: RankerInput) -> Iterator[NDArray[Any]]:
    return (getattr(one, name) for name in RankerInput.__slots__)


def _of(one: RankerInput, places: slice | NDArray[np.bool_]) -> RankerInput:
    return RankerInput(*(column[places] for column in _columns(one)))


@dataclass(frozen=True, slots=True)
class Ranked:
    """The best items of each user, best first."""

    item_keys: NDArray[np.int64]  # (B, K); 0 where a row has fewer than K items
    scores: NDArray[np.float32]  # (B, K)
    # (B, D), zeros for a user of whom nothing is known; None if the model gives none
    user_vectors: NDArray[np.float32] | None = None


Candidate = tuple[int, float, str]  # item key, score, source


@dataclass(frozen=True, slots=True)
class Answer:
    """
    What one version answered about some users of a micro-batch.

    Attributes:
        users: User to the row of them in `histories` and in `ranked`, in that order.
    """

    version: str
    users: Mapping[str, int]
    histories: Sequence[RankerInput]
    ranked: Ranked


@dataclass(frozen=True, slots=True)
class Ranking:
    """
    Of each user that was ranked: the candidates, and the version that made them.

    Attributes:
        unanswered: Users with a history whom no version has ranked: their slates are degraded.
    """

    candidates: dict[str, Iterable[Candidate]]  # by user; to be read once, padding at the end
    models: Mapping[str, ModelVersion]
    answers: Sequence[Answer]
    unanswered: int = 0


NO_RANKING = Ranking({}, {}, ())


class Ranker(Protocol):
    """Scores a batch of users with one version of the model."""

    async def rank(
        self, inputs: Sequence[RankerInput], *, version: str, deadline_s: float
    ) -> Ranked:
        """
        Rank the whole catalogue of *version* for each user.

        Raises:
            RankerUnavailable: If the answer is late, missing or malformed.
        """
        ...
