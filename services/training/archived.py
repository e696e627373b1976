"""Arrivals from the archive: decoded by the worker's own code, which decides what counts."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from services.archive.reader import partition_count, read_archive, record_count
from services.settings import WorkerSettings
from services.training.arrivals import (
    ARRIVAL,
    Arrivals,
    ItemNames,
    Source,
    UnreadableLog,
    first_line,
    hash_of,
    user_key,
)
from stream.decode import Accepted, decode
from stream.history import entry_of
from stream.records import Record
from stream.topics import EVENT_PARTITIONS, EVENTS

DECODED = 8_192  # records in a chunk: decoding makes objects of them


def open_archive(path: Path) -> Source:
    """
    The events in *path*, the archive or its directory of one topic.

    Raises:
        UnreadableLog: If there are none, or a file is damaged.
    """
    names = ItemNames()
    directory = _topic_dir(path)
    return Source(_archived(directory, names), names, _about(directory), False, path)


def _topic_dir(path: Path) -> Path:
    directory = path / EVENTS if (path / EVENTS).is_dir() else path
    if not any(directory.glob("partition=*/*.parquet")):
        raise UnreadableLog(f"{path}: no partition=P/*.parquet in it; is it the archive?")
    return directory


def _about(directory: Path) -> int:
    try:
        return record_count(directory)
    except (pa.ArrowInvalid, OSError) as error:
        raise UnreadableLog(f"{directory}: {first_line(error)}") from error


def _archived(directory: Path, names: ItemNames) -> Iterator[Arrivals]:
    max_ahead_ms = round(WorkerSettings().max_ahead_s * 1000)
    partitions = partition_count(directory, EVENT_PARTITIONS)
    columns = ["partition", "offset", "kafka_timestamp_ms", "key", "value"]
    try:
        for batch in read_archive(directory, columns, DECODED):
            records = map(Record, *(batch[name].to_pylist() for name in columns))
            decoded = decode(list(records), partitions=partitions, max_ahead_ms=max_ahead_ms)
            rows = [arrival(one, names) for one in decoded if isinstance(one, Accepted)]
            yield np.array(rows, ARRIVAL)
    except (pa.ArrowInvalid, OSError) as error:
        raise UnreadableLog(f"{directory}: {first_line(error)}") from error


def arrival(one: Accepted, names: ItemNames) -> tuple[Any, ...]:
    """The fields of `ARRIVAL` of an event that the worker accepted."""
    event = one.event
    entry = entry_of(event, one.record.offset)
    if event.item_id:
        names.key(event.item_id)
    session = hash_of(f"{event.user_id}\n{event.session_id}") if event.session_id else -1
    return (user_key(event.user_id), session, *entry)
