"""The history of the catalogue, from the archive of items.v1, as the feature store reads it."""

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from features.items import ITEM_ID, ORDER, SINCE
from services.archive.reader import read_archive
from stream.items import InvalidItem, Item, parse_item

_MOMENT = pa.timestamp("us", tz="UTC")
_FIELDS: list["pa.Field[Any]"] = [
    pa.field(ITEM_ID, pa.string()),
    pa.field(SINCE, _MOMENT),
    pa.field(ORDER, _MOMENT),
    pa.field("title", pa.string()),
    pa.field("brand", pa.string()),
    pa.field("categories", pa.list_(pa.string())),
    pa.field("price", pa.float64()),
]
SCHEMA = pa.schema(_FIELDS)


def export_items(topic_dir: Path, out: Path) -> int:
    """
    Write a row for each record of *topic_dir* that is an item, or deletes one, to *out*.

    A row counts from its record's Kafka timestamp on, but an item's first one from the beginning:
    nothing older is known of it, and a shop's past is often read in before its catalogue.

    Returns:
        The number of rows.
    """
    known: set[str] = set()
    count = 0
    columns = ["offset", "kafka_timestamp_ms", "key", "value"]
    with pq.ParquetWriter(out, SCHEMA) as file:
        for batch in read_archive(topic_dir, columns):
            rows = []
            for offset, time_ms, key, value in zip(
                *(batch[name].to_pylist() for name in columns), strict=True
            ):
                if (row := _row(key, value)) is None:
                    continue
                first = row[ITEM_ID] not in known
                known.add(row[ITEM_ID])
                rows.append({**row, SINCE: 0 if first else time_ms * 1000, ORDER: offset})
            file.write_batch(pa.RecordBatch.from_pylist(rows, SCHEMA))
            count += len(rows)
    return count


def _row(key: bytes | None, value: bytes | None) -> dict[str, Any] | None:
    try:
        if value is None:
            return {ITEM_ID: (key or b"").decode()}
        item = parse_item(value)
    except (InvalidItem, UnicodeDecodeError):
        return None  # every worker leaves it out too
    return {
        ITEM_ID: item.item_id,
        "title": item.title,
        "brand": item.brand,
        "categories": list(item.categories),
        "price": item.price,
    }


def as_item(item_id: str, fields: dict[str, Any]) -> Item:
    """An item of what the feature store says of it."""
    return Item(item_id=item_id, **{**fields, "categories": tuple(fields["categories"] or ())})
