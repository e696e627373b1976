"""The packed row of an item as arrays, for whoever reads features through Feast."""

from typing import Any

from stream.event_types import EventType
from stream.item_row import Count, ItemRow, Said
from stream.signals import Kind

# To learn our types Feast calls us with this, which is no row, and wants an example in answer.
_FEAST_SAMPLE = b"hello world"


def unpack_item_rows(inputs: dict[str, list[bytes | None]]) -> dict[str, list[Any]]:
    """Turn a column of rows into a column for each feature; of an unknown item all are empty."""
    unpacked = [_unpack(_row(raw)) for raw in inputs["row"]]
    return {name: [one[name] for one in unpacked] for name in unpacked[0]}


def _unpack(row: ItemRow) -> dict[str, Any]:
    counts = row.counts()
    features: dict[str, Any] = {
        "as_of_ms": row.as_of_ms,
        "conversion": row.conversion(),
        "event_types": [kind.name.lower() for kind in counts],
    }
    for span in Count._fields:
        features[f"counts_{span}"] = [getattr(count, span) for count in counts.values()]
    for kind in (Kind.CO_VISITED, Kind.BOUGHT_TOGETHER):
        name, found = kind.name.lower(), row.neighbours(kind)
        features[f"{name}_keys"] = [one.item_key for one in found]
        features[f"{name}_weights"] = [one.weight for one in found]
        features[f"{name}_errors"] = [one.error for one in found]
    return features


def _row(raw: bytes | None) -> ItemRow:
    if raw != _FEAST_SAMPLE:
        return ItemRow.from_bytes(raw)
    example = ItemRow()
    said: list[Said] = [
        (1, 0, 0, Kind.COUNT, EventType.CLICK, 0, 1.0, 0),
        (1, 0, 0, Kind.CO_VISITED, 0, 2, 1.0, 0),
        (1, 0, 0, Kind.BOUGHT_TOGETHER, 0, 2, 1.0, 0),
    ]
    example.fold(said)
    return example
