"""The result contract: the slate that the worker pushes to `recommendations.v1`."""

from typing import Literal

import xxhash
from pydantic import BaseModel, ConfigDict, Field

from stream.events import Id, Timestamp

Strategy = Literal["ranker", "popular"]


class State(BaseModel):
    """The newest record folded in. Ignore a slate whose offset is lower than one already seen."""

    model_config = ConfigDict(frozen=True)

    partition: int = Field(ge=0)
    offset: int = Field(ge=0)


class Trigger(BaseModel):
    """Why this slate was made."""

    model_config = ConfigDict(frozen=True)

    kind: Literal["event", "item", "model"]
    event_id: Id | None = None


class ModelVersion(BaseModel):
    """The model version that took part."""

    model_config = ConfigDict(frozen=True)

    name: str
    version: str


class RecommendedItem(BaseModel):
    """One place in the slate."""

    model_config = ConfigDict(frozen=True)

    item_id: Id
    rank: int = Field(ge=1, description="1 is best.")
    score: float
    sources: tuple[str, ...]


class Recommendation(BaseModel):
    """A user's refreshed slate: everything needed to trust, trace and replay it."""

    model_config = ConfigDict(frozen=True, populate_by_name=True)

    schema_version: Literal[1] = Field(1, alias="schema")
    recommendation_id: str = Field(description="Hash of user, surface, state and items.")
    user_id: Id
    surface: str
    k: int = Field(ge=1)
    generated_at: Timestamp
    as_of: Timestamp = Field(description="Event time of the newest event folded in.")
    state: State
    trigger: Trigger
    strategy: Strategy = Field(description="What made the slate; never silently degraded.")
    model: ModelVersion | None = Field(description="Null when no model took part.")
    items: tuple[RecommendedItem, ...] = Field(description="Best first; at most k, unique.")

    def to_json(self) -> bytes:
        """The value as published."""
        return self.model_dump_json(by_alias=True).encode()


def recommendation_id(user_id: str, surface: str, state: State, item_ids: tuple[str, ...]) -> str:
    """The same slate for the same state has the same id, however often it is published."""
    text = "\x00".join((user_id, surface, f"{state.partition}:{state.offset}", *item_ids))
    return xxhash.xxh3_128_hexdigest(text.encode())
