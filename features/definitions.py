"""The feature contract: what is kept of users and items. `features.store` registers it."""

from typing import Any

from feast import Entity, FeatureService, FeatureView, Field, ValueType
from feast.on_demand_feature_view import on_demand_feature_view
from feast.types import Array, Bytes, Float64, Int64, String

from stream.item_row import Count

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
    description="A partition of events.v1; of signals.v1 in the views that say so.",
)
item = Entity(
    name="item",
    join_keys=["item_key"],
    value_type=ValueType.INT64,
    description="An item of the shop: xxh3 of its item_id, signed 64-bit.",
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

item_row = FeatureView(
    name="item_row",
    description="Statistics of an item, packed; `stream.item_row.ItemRow` reads it.",
    entities=[item],
    schema=[Field(name="row", dtype=Bytes)],
)
trending = FeatureView(
    name="trending",
    description="The items visited most, of one partition of signals.v1; see `stream.trending`.",
    entities=[partition],
    schema=[Field(name="lists", dtype=Bytes)],
)
signals_mark = FeatureView(
    name="signals_mark",
    description="How far a partition of signals.v1 is settled.",
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


@on_demand_feature_view(  # type: ignore[untyped-decorator]
    description="An item's statistics, unpacked, as faded at its newest event.",
    sources=[item_row],
    schema=[
        # No descriptions of scalars: Feast compares them with fields that it infers, without any.
        Field(name="as_of_ms", dtype=Int64),  # newest event, epoch ms; 0: none
        Field(name="conversion", dtype=Float64),  # purchases for each impression, ever
        Field(name="event_types", dtype=Array(String), description="of the counts below"),
        *(Field(name=f"counts_{span}", dtype=Array(Float64)) for span in Count._fields),
        *(
            Field(name=f"{kind}_{column}", dtype=dtype)
            for kind in ("co_visited", "bought_together")
            for column, dtype in (
                ("keys", Array(Int64)),
                ("weights", Array(Float64)),
                ("errors", Array(Float64)),
            )
        ),
    ],
    mode="python",
)
def item_statistics(inputs: dict[str, list[bytes | None]]) -> dict[str, list[Any]]:
    """As above."""
    from features.item_rows import unpack_item_rows

    return unpack_item_rows(inputs)


# A model version reads exactly one feature service; change the inputs, add ranker_v2.
ranker_v1 = FeatureService(name="ranker_v1", features=[user_row])

DEFINITIONS: list[Any] = [
    *(user, partition, user_row, partition_mark),
    *(item, item_row, trending, signals_mark),
    *(user_interactions, item_statistics, ranker_v1),
]
