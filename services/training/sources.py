"""A log of events, whatever it lies in, as arrivals."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from services.logs.columns import Column
from services.training.archived import open_archive
from services.training.arrivals import Arrivals, Source, narrowed
from services.training.tables import open_json_lines, open_parquet
from stream.items import Item
from stream.keys import item_key


def open_source(path: Path, mapping: Mapping[str, Column]) -> Source:
    """
    Open *path*: a Parquet file, JSON Lines, or a directory written by the archiver.

    Raises:
        UnreadableLog: If a column is missing; while it is read, if an event cannot be.
    """
    if path.is_dir():
        return open_archive(path)
    if path.suffix == ".parquet":
        return open_parquet(path, mapping)
    return open_json_lines(path, mapping)


def read_source(
    events: Path,
    mapping: Mapping[str, Column],
    catalogue: Mapping[str, Item] | None,
    from_ms: int | None,
    until_ms: int | None,
) -> Source:
    """
    The part of a log that is to be learnt.

    Args:
        catalogue: Only actions on its items; None: on any.
        from_ms, until_ms: Only events from the one on and before the other.

    Raises:
        UnreadableLog: If the log cannot be read.
    """
    source = open_source(events, mapping)
    known = None if catalogue is None else [item_key(item_id) for item_id in catalogue]

    def wanted(chunk: Arrivals) -> NDArray[np.bool_]:
        times_ms = chunk["timestamp_ms"]
        kept = np.ones(len(chunk), bool)
        kept &= times_ms >= (times_ms if from_ms is None else from_ms)
        kept &= times_ms < (times_ms + 1 if until_ms is None else until_ms)
        return kept if known is None else kept & np.isin(chunk["item_key"], known)

    return narrowed(source, wanted)
