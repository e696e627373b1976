"""The feature contract: what is kept about a user. `features.store` registers it with Feast."""

from typing import Any

from feast import Entity, FeatureService, FeatureView, Field, ValueType
from feast.on_demand_feature_view import on_demand_feature_view
from feast.types import Array, Bytes, Int64, String

user = Entity(
    name="user",
    join_keys=["user_id"],
    value_type=ValueType.STRING,
    description="A visitor of the shop, signed in or not.",
)
partition = Entity(
    name="partition",
    join_keys=["partition"],
    value_type=ValueType.INT64,
    description="A partition of events.v1.",
)

# No view has a source: the worker writes the online store itself, and the rows can be folded
# again from the archive of events; Feast never materializes them.
user_row = FeatureView(
    name="user_row",
    description="Everything known about a user, packed; `stream.history.UserRow` reads it.",
    entities=[user],
    schema=[Field(name="row", dtype=Bytes)],
)
partition_mark = FeatureView(
    name="partition_mark",
    description="How far a partition is settled, and what became of its events.",
    entities=[partition],
    schema=[Field(name="mark", dtype=Bytes)],
)


# For people and notebooks. The worker and the model's inputs are made from the packed row.
@on_demand_feature_view(  # type: ignore[untyped-decorator]
    description="A user's newest actions, unpacked into four parallel arrays, oldest first.",
    sources=[user_row],
    schema=[
        Field(name="event_types", dtype=Array(String)),
        Field(name="item_keys", dtype=Array(Int64), description="xxh3 of item_id"),
        Field(name="event_timestamps_ms", dtype=Array(Int64), description="epoch ms, UTC"),
        Field(name="offsets", dtype=Array(Int64), description="of the record on events.v1"),
    ],
    mode="python",
)
def user_interactions(inputs: dict[str, list[bytes | None]]) -> dict[str, list[Any]]:
    """The registry keeps this function's own code and nothing around it, hence the import."""
    from features.unpacking import unpack_interactions

    return unpack_interactions(inputs)


# A model version reads exactly one feature service; change the inputs, add ranker_v2.
ranker_v1 = FeatureService(name="ranker_v1", features=[user_row])

DEFINITIONS: list[Any] = [
    *(user, partition, user_row, partition_mark),
    *(user_interactions, ranker_v1),
]
