"""`trace.v1`: what the ranker was given for a sampled share of slates, to replay and to compare."""

from collections.abc import Iterator, Sequence
from typing import Literal, Self

import numpy as np
import xxhash
from pydantic import BaseModel, ConfigDict, Field

from stream import topics
from stream.events import Id
from stream.ranking import RankerInput, Ranking
from stream.recommendation import ModelVersion, State
from stream.records import Outgoing
from stream.slate import Slate


class Trace(BaseModel):
    """One slate's input: parallel arrays, newest last, as they went to the model."""

    model_config = ConfigDict(frozen=True, populate_by_name=True)

    schema_version: Literal[1] = Field(1, alias="schema")
    recommendation_id: str = Field(description="Of the slate that was made of it.")
    user_id: Id
    state: State
    model: ModelVersion
    item_keys: tuple[int, ...] = Field(description="xxh3 of item_id, signed 64-bit.")
    event_types: tuple[int, ...]
    ages_s: tuple[float, ...] = Field(description="Before the newest; 32-bit.")
    price_buckets: tuple[int, ...]
    context: tuple[int, ...]

    @classmethod
    def of(cls, slate: Slate, model: ModelVersion, given: RankerInput) -> Self:
        """The trace of *slate*, which *model* made of *given*."""
        recommendation = slate.recommendation
        return cls(
            recommendation_id=recommendation.recommendation_id,
            user_id=recommendation.user_id,
            state=recommendation.state,
            model=model,
            **{name: tuple(getattr(given, name).tolist()) for name in given.__slots__},
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

    def outgoing(self) -> Outgoing:
        """The record to publish."""
        value = self.model_dump_json(by_alias=True).encode()
        return Outgoing(topics.TRACE, self.user_id.encode(), value)


def traces(slates: Sequence[Slate], ranking: Ranking, share: float) -> Iterator[Outgoing]:
    """
    The traces of *share* (0 to 1) of the slates that the ranker took part in.

    A slate's own id decides, so that a repeat after a crash traces the same ones.
    """
    if not share:
        return
    given = {user: one for answer in ranking.answers for user, one in answer.histories.items()}
    for slate in slates:
        recommendation = slate.recommendation
        drawn = xxhash.xxh3_64_intdigest(recommendation.recommendation_id.encode()) / 2**64
        if drawn < share and recommendation.model is not None:
            history = given[recommendation.user_id]
            yield Trace.of(slate, recommendation.model, history).outgoing()
