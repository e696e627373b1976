"""The packed row as parallel arrays, for whoever reads features through Feast."""

from typing import Any

import numpy as np

from stream.event_types import EventType
from stream.history import ENTRY, UserRow

# To learn our types Feast calls us with this, which is no row, and wants an example in answer.
_FEAST_SAMPLE = b"hello world"


def unpack_interactions(inputs: dict[str, list[bytes | None]]) -> dict[str, list[Any]]:
    """Turn a column of rows into a column for each array; an unknown user's arrays are empty."""
    entries = [_interactions(raw) for raw in inputs["row"]]
    return {
        "event_types": [[EventType(t).name.lower() for t in e["event_type"]] for e in entries],
        "item_keys": [e["item_key"].tolist() for e in entries],
        "event_timestamps_ms": [e["timestamp_ms"].tolist() for e in entries],
        "offsets": [e["offset"].tolist() for e in entries],
    }


def _interactions(raw: bytes | None) -> np.ndarray[Any, Any]:
    if raw == _FEAST_SAMPLE:
        return np.ones(1, ENTRY)
    return UserRow.from_bytes(raw).lists["interactions"]
