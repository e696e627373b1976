"""The feature contract: what is kept about a user. `features.store` registers it with Feast."""

from typing import Any

from feast import Entity, FeatureService, FeatureView, Field, FileSource, ValueType
from feast.types import Bytes

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

# Feast asks every view for a batch source. Ours is the archive of events, from which the rows can
# be folded again; nothing is ever materialized from it.
archive = FileSource(
    name="events_archive",
    path="archive/events.v1",
    timestamp_field="event_timestamp",
)

user_row = FeatureView(
    name="user_row",
    description="Everything known about a user, packed; `stream.history.UserRow` reads it.",
    entities=[user],
    schema=[Field(name="row", dtype=Bytes)],
    source=archive,
)
partition_mark = FeatureView(
    name="partition_mark",
    description="How far a partition is settled, and what became of its events.",
    entities=[partition],
    schema=[Field(name="mark", dtype=Bytes)],
    source=archive,
)

# A model version reads exactly one feature service; change the inputs, add ranker_v2.
ranker_v1 = FeatureService(name="ranker_v1", features=[user_row])

DEFINITIONS: list[Any] = [user, partition, archive, user_row, partition_mark, ranker_v1]
