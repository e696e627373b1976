"""The result contract: the slate that the worker pushes to `recommendations.v1`."""

from collections.abc import Sequence
from datetime import datetime
from typing import Annotated, Literal

import xxhash
from msgspec import Meta, Struct, field
from msgspec.json import Encoder

from stream.event_contract import MAX_ID_CHARACTERS

# Structs, not pydantic models: a slate has some twenty-five objects, which we make ourselves. What
# is said of each field here is what the document says, and what reading a slate checks.
Strategy = Literal["ranker", "co_visited", "popular"]
Id = Annotated[str, Meta(min_length=1, max_length=MAX_ID_CHARACTERS)]
Count = Annotated[int, Meta(ge=0)]


class State(Struct, frozen=True, gc=False):
    """The newest record folded in. Ignore a slate whose offset is lower than one already seen."""

    partition: Count
    offset: Count


class Trigger(Struct, frozen=True, gc=False):
    """Why this slate was made."""

    kind: Literal["event", "item", "model"]
    event_id: Id | None = None


class ModelVersion(Struct, frozen=True, gc=False):
    """The model version that took part."""

    name: str
    version: str


class RecommendedItem(Struct, frozen=True, gc=False):
    """One place in the slate."""

    item_id: Id
    rank: Annotated[int, Meta(ge=1, description="1 is best.")]
    score: float
    sources: tuple[str, ...]


class Recommendation(Struct, frozen=True, kw_only=True):
    """A user's refreshed slate: everything needed to trust, trace and replay it."""

    schema_version: Literal[1] = field(default=1, name="schema")
    recommendation_id: Annotated[str, Meta(description="Hash of user, surface, state and items.")]
    user_id: Id
    surface: str
    k: Annotated[int, Meta(ge=1)]
    generated_at: Annotated[datetime, Meta(tz=True)]
    as_of: Annotated[
        datetime, Meta(tz=True, description="Event time of the newest event folded in.")
    ]
    state: State
    trigger: Trigger
    strategy: Annotated[Strategy, Meta(description="What made the slate; never silently degraded.")]
    model: Annotated[ModelVersion | None, Meta(description="Null when no model took part.")]
    items: Annotated[
        tuple[RecommendedItem, ...], Meta(description="Best first; at most k, unique.")
    ]

    def to_json(self) -> bytes:
        """The value as published."""
        return _encode(self)


_encode = Encoder().encode


def recommendation_id(user_id: str, surface: str, state: State, item_ids: Sequence[str]) -> str:
    """The same slate for the same state has the same id, however often it is published."""
    text = "\x00".join((user_id, surface, f"{state.partition}:{state.offset}", *item_ids))
    return xxhash.xxh3_128_hexdigest(text.encode())
