"""
Items as they were at a moment: the offline side of the feature store, for training.

An item's title, brand, categories and price change, and a model must not learn from a text or a
price that came later than what it is to foretell. Feast joins each item with its newest row that is
no newer than the moment asked for (point-in-time join). Serving reads items from `items.v1` itself,
so there is no online side, and workers need not know this view.
"""

from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from features.importing import import_feast

if TYPE_CHECKING:
    from feast import FeatureStore

FIELDS = ("title", "brand", "categories", "price")
# In the Parquet file, beside the fields: which item, since when, and which of two of one moment.
ITEM_ID, SINCE, ORDER = "item_id", "event_timestamp", "created_timestamp"


def items_as_of(history: Path, moments_ms: Mapping[str, int]) -> dict[str, dict[str, Any]]:
    """
    Each item's `FIELDS` at its moment; an item that was not known, or deleted, is left out.

    Args:
        history: A Parquet file with a row for each change of an item.
        moments_ms: Item id to epoch ms.
    """
    if not moments_ms:
        return {}
    import_feast()
    import pandas as pd  # type: ignore[import-untyped]

    asked = pd.DataFrame(
        {
            ITEM_ID: list(moments_ms),
            SINCE: pd.to_datetime(list(moments_ms.values()), unit="ms", utc=True),
        }
    )
    with TemporaryDirectory() as directory:
        store = _store(history, Path(directory))
        features = [f"item:{name}" for name in FIELDS]
        found = store.get_historical_features(entity_df=asked, features=features).to_arrow()
    return {
        row[ITEM_ID]: {name: row[name] for name in FIELDS}
        for row in found.to_pylist()
        if row["title"] is not None
    }


def _store(history: Path, directory: Path) -> "FeatureStore":
    from feast import Entity, FeatureStore, FeatureView, Field, FileSource, RepoConfig, ValueType
    from feast.types import Array, Float64, String

    item = Entity(name="item", join_keys=[ITEM_ID], value_type=ValueType.STRING)
    view = FeatureView(
        name="item",
        description="An item of the catalogue, and what it was before.",
        entities=[item],
        schema=[
            Field(name="title", dtype=String),
            Field(name="brand", dtype=String),
            Field(name="categories", dtype=Array(String)),
            Field(name="price", dtype=Float64),
        ],
        source=FileSource(
            name="item_history",
            path=str(history.absolute()),
            timestamp_field=SINCE,
            created_timestamp_column=ORDER,
        ),
        online=False,
    )
    config = RepoConfig(
        project="items",
        registry=str(directory / "registry.db"),
        provider="local",
        offline_store={"type": "file"},
        online_store=None,
        entity_key_serialization_version=3,
    )
    store = FeatureStore(config=config)
    store.apply([item, view])
    return store
