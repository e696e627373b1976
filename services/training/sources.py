"""A log of events, whatever it lies in, as arrivals."""

from collections.abc import Mapping
from pathlib import Path

from services.logs.columns import Column
from services.training.archived import open_archive
from services.training.arrivals import Source
from services.training.tables import open_json_lines, open_parquet


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
