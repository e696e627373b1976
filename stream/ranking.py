"""What the pipeline asks of a ranker, whoever answers. Triton does: `services.models.triton`."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

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
    """What one version answered about some users of a micro-batch."""

    version: str
    histories: Mapping[str, RankerInput]  # by user, in the order of the rows of `ranked`
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
