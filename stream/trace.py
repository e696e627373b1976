"""
`trace.v1`: what a sampled share of slates was made of, to replay and to compare.

The ranker's inputs, which training is compared with; and the candidates that were looked at, with
what the catalogue said of each then. From these `replay` makes the slate again, byte for byte.
"""

from datetime import datetime
from typing import Annotated, Literal, Self

import numpy as np
import xxhash
from msgspec import Meta, Struct, field, json

from stream import topics
from stream.ranking import RankerInput, Ranking
from stream.recommendation import Id, ModelVersion, Recommendation, State, Trigger
from stream.records import Outgoing
from stream.slate import Considered, Slate, compose, consider


class Trace(Struct, frozen=True, kw_only=True):
    """One slate's inputs. The model's are parallel arrays, newest last, as they went to it."""

    schema_version: Literal[2] = field(default=2, name="schema")
    recommendation_id: Annotated[str, Meta(description="Of the slate that was made of it.")]
    user_id: Id
    state: State
    model: ModelVersion
    item_keys: Annotated[tuple[int, ...], Meta(description="xxh3 of item_id, signed 64-bit.")]
    event_types: tuple[int, ...]
    ages_s: Annotated[tuple[float, ...], Meta(description="Before the newest; 32-bit.")]
    price_buckets: tuple[int, ...]
    context: tuple[int, ...]
    surface: str
    k: int
    generated_at: Annotated[datetime, Meta(tz=True)]
    as_of: Annotated[datetime, Meta(tz=True)]
    trigger: Trigger
    candidates: Annotated[
        tuple[Considered, ...],
        Meta(description="Looked at, best first, until the slate was full."),
    ]

    @classmethod
    def from_json(cls, raw: bytes) -> Self:
        """Read a value of the topic. Raises `msgspec.ValidationError` if it is none."""
        return json.decode(raw, type=cls)

    @classmethod
    def of(cls, slate: Slate, model: ModelVersion, given: RankerInput) -> Self:
        """The trace of *slate*, which *model* made of *given*."""
        recommendation = slate.recommendation
        return cls(
            recommendation_id=recommendation.recommendation_id,
            user_id=recommendation.user_id,
            state=recommendation.state,
            model=model,
            item_keys=tuple(given.item_keys.tolist()),
            event_types=tuple(given.event_types.tolist()),
            ages_s=tuple(given.ages_s.tolist()),
            price_buckets=tuple(given.price_buckets.tolist()),
            context=tuple(given.context.tolist()),
            surface=recommendation.surface,
            k=recommendation.k,
            generated_at=recommendation.generated_at,
            as_of=recommendation.as_of,
            trigger=recommendation.trigger,
            candidates=tuple(slate.considered),
        )

    def ranker_input(self) -> RankerInput:
        """The arrays as they were."""
        return RankerInput(
            item_keys=np.array(self.item_keys, np.int64),
            event_types=np.array(self.event_types, np.int32),
            ages_s=np.array(self.ages_s, np.float32),
            price_buckets=np.array(self.price_buckets, np.int32),
            context=np.array(self.context, np.int32),
        )

    def replay(self) -> Recommendation:
        """The slate, made again by what made it."""
        considered = consider(
            ((one.key, one.score, one.source) for one in self.candidates),
            id_of={one.key: one.item_id for one in self.candidates}.get,
            hidden={one.key for one in self.candidates if one.hidden},
            k=self.k,
        )
        return compose(
            considered,
            user_id=self.user_id,
            surface=self.surface,
            k=self.k,
            generated_at=self.generated_at,
            as_of=self.as_of,
            state=self.state,
            trigger=self.trigger,
            model=self.model,
        )

    def outgoing(self) -> Outgoing:
        """The record to publish."""
        return Outgoing(topics.TRACE, self.user_id.encode(), json.encode(self))


def trace_of(slate: Slate, ranking: Ranking, share: float) -> Outgoing | None:
    """
    The trace of *slate* if it is one of *share* (0 to 1) of those that the ranker took part in.

    Its own id decides, so that a repeat after a crash traces the same ones.
    """
    recommendation = slate.recommendation
    if not share or recommendation.model is None:
        return None
    if xxhash.xxh3_64_intdigest(recommendation.recommendation_id.encode()) / 2**64 >= share:
        return None
    user_id = recommendation.user_id
    answer = next(one for one in ranking.answers if user_id in one.users)
    given = answer.histories[answer.users[user_id]]
    return Trace.of(slate, recommendation.model, given).outgoing()
