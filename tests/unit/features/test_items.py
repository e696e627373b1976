"""Items as they were: what came later must not be seen."""

from pathlib import Path

import orjson
import pyarrow as pa

from features.items import items_as_of
from services.archive.items import as_item, export_items
from services.archive.reader import SCHEMA, append, partition_dir
from stream.items import item_text

HOUR_MS = 3_600_000
T0_MS = 1_470_000_000_000


def archived(topic_dir: Path, *changes: tuple[str, int, dict[str, object] | bytes | None]) -> Path:
    """An archive of items.v1: (item id, hour, what was said of it)."""
    rows = [
        {
            "partition": 0,
            "offset": offset,
            "kafka_timestamp_ms": T0_MS + hour * HOUR_MS,
            "key": item_id.encode(),
            "value": orjson.dumps({"item_id": item_id, **fields})
            if isinstance(fields, dict)
            else fields,
            "headers": [],
        }
        for offset, (item_id, hour, fields) in enumerate(changes)
    ]
    append(partition_dir(topic_dir, 0), pa.Table.from_pylist(rows, schema=SCHEMA))
    return topic_dir


def test_a_change_after_the_moment_is_not_seen(tmp_path: Path):
    """A price of tomorrow, in a model that foretells today, is a leak that no metric shows."""
    topic = archived(
        tmp_path / "items.v1",
        ("hat", 1, {"title": "Hat", "brand": "B", "categories": ["A", "C"], "price": 10}),
        ("cap", 1, {"title": "Cap"}),
        ("hat", 3, {"title": "Hat", "price": 99}),
        ("hat", 3, {"title": "Sun hat", "price": 12}),  # of one millisecond the later one counts
        ("junk", 4, b"not an item"),
        ("cap", 5, None),
    )
    history = tmp_path / "items.parquet"

    assert export_items(topic, history) == 5
    at = {hour: T0_MS + hour * HOUR_MS for hour in (0, 2, 4, 6)}
    early = items_as_of(history, {"hat": at[2], "cap": at[4], "none": at[6], "junk": at[6]})
    late = items_as_of(history, {"hat": at[4], "cap": at[6]})
    before = items_as_of(history, {"hat": at[0]})

    assert set(early) == {"hat", "cap"}
    assert early["hat"]["price"] == 10
    assert item_text(as_item("hat", early["hat"])) == "Hat | B | A > C"
    assert item_text(as_item("cap", early["cap"])) == "Cap"
    assert (late["hat"]["title"], late["hat"]["price"]) == ("Sun hat", 12)
    assert "cap" not in late  # deleted
    assert before["hat"]["title"] == "Hat"  # the first that is known of it holds for the past
