"""
The archive of a topic: Parquet files whose names are its progress.

``<topic>/partition=<p>/<first>-<last>.parquet`` holds the records of one partition from offset
*first* to *last*. A file appears whole or not at all, the ranges of two files never overlap, and
where the newest one ends the next one begins. Nothing else is kept about progress.
"""

import fcntl
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

_FIELDS: list["pa.Field[Any]"] = [
    pa.field("partition", pa.int32(), nullable=False),
    pa.field("offset", pa.int64(), nullable=False),
    pa.field("kafka_timestamp_ms", pa.int64(), nullable=False),
    pa.field("key", pa.binary()),
    pa.field("value", pa.binary()),
    pa.field("headers", pa.list_(pa.struct([("name", pa.string()), ("value", pa.binary())]))),
]
SCHEMA = pa.schema(_FIELDS)
_PARTITION = "partition"  # in the directory's name and not in the files: pandas refuses both
_NAME = re.compile(r"(\d{20})-(\d{20})\.parquet")
_UNFINISHED = ".unfinished"
_PARTITION_COUNT = "partitions"


@dataclass(frozen=True, order=True)
class Segment:
    """One finished file: the records of a partition from offset *first* to *last*, both in it."""

    first: int
    last: int
    path: Path


def partition_dir(topic_dir: Path, partition: int) -> Path:
    """Where the files of one partition lie."""
    return topic_dir / f"partition={partition}"


def segments(directory: Path) -> list[Segment]:
    """The finished files of a partition, oldest first; none if there is no such directory."""
    if not directory.is_dir():
        return []
    matches = ((_NAME.fullmatch(path.name), path) for path in directory.iterdir())
    return sorted(Segment(int(m[1]), int(m[2]), path) for m, path in matches if m)


def next_offset(directory: Path) -> int | None:
    """The first offset that a partition's archive does not hold; None for an empty archive."""
    known = segments(directory)
    return known[-1].last + 1 if known else None


def append(directory: Path, records: pa.Table) -> Segment | None:
    """
    Add *records*, of one partition and in offset order, as one file, durably.

    What the archive holds already is left out, under a lock: of two archivers that both believe
    to own the partition, the slower one adds only what is missing.

    Returns:
        The new file, or None if nothing was missing.
    """
    directory.mkdir(parents=True, exist_ok=True)
    with _locked(directory):
        for leftover in directory.glob(f"*{_UNFINISHED}"):
            leftover.unlink()  # of a process that was killed: we hold the lock, so nobody writes it
        known = next_offset(directory)
        if known is not None:
            records = records.filter(pc.field("offset") >= known)
        if not len(records):
            return None
        return _write(directory, records)


def record_count(topic_dir: Path) -> int:
    """How many records the archive of a topic holds; their number is in each file's footer."""
    return sum(pq.read_metadata(path).num_rows for path in topic_dir.glob("partition=*/*.parquet"))


def keep_partition_count(topic_dir: Path, count: int) -> None:
    """Remember how many partitions the topic has: what decides where a key belonged."""
    topic_dir.mkdir(parents=True, exist_ok=True)
    unfinished = topic_dir / f".{os.getpid()}{_UNFINISHED}"
    unfinished.write_text(str(count))
    unfinished.rename(topic_dir / _PARTITION_COUNT)


def partition_count(topic_dir: Path, default: int) -> int:
    """How many partitions the topic has, or *default* if no archiver has said."""
    path = topic_dir / _PARTITION_COUNT
    return int(path.read_text()) if path.exists() else default


def read_archive(
    topic_dir: Path, columns: list[str] | None = None, batch_size: int = 65_536
) -> Iterator[pa.RecordBatch]:
    """
    Yield the records of *topic_dir*, partition by partition, each in offset order.

    Args:
        topic_dir: ``<archive>/<topic>``, which holds the ``partition=<p>`` directories.
        columns: Names out of `SCHEMA`; all of them by default.
        batch_size: Records in a batch, at most.
    """
    names = columns or SCHEMA.names
    in_files = [name for name in names if name != _PARTITION]
    partitions = sorted(int(path.name.partition("=")[2]) for path in topic_dir.glob("partition=*"))
    for partition in partitions:
        for segment in segments(partition_dir(topic_dir, partition)):
            with pq.ParquetFile(segment.path) as file:
                for batch in file.iter_batches(batch_size, columns=in_files):
                    yield _with_partition(batch, partition, names)


def _with_partition(batch: pa.RecordBatch, partition: int, names: list[str]) -> pa.RecordBatch:
    constant = pa.array([partition] * len(batch), pa.int32())
    arrays = [constant if name == _PARTITION else batch.column(name) for name in names]
    return pa.RecordBatch.from_arrays(arrays, schema=pa.schema([SCHEMA.field(n) for n in names]))


def _write(directory: Path, records: pa.Table) -> Segment:
    first, last = records["offset"][0].as_py(), records["offset"][-1].as_py()
    finished = directory / f"{first:020}-{last:020}.parquet"
    unfinished = finished.with_suffix(_UNFINISHED)
    with unfinished.open("wb") as file:
        pq.write_table(records.drop_columns([_PARTITION]), file, compression="zstd")
        file.flush()
        os.fsync(file.fileno())
    unfinished.rename(finished)
    _sync_directory(directory)
    return Segment(first, last, finished)


def _sync_directory(directory: Path) -> None:
    """Make a rename survive a power cut."""
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def _locked(directory: Path) -> Iterator[None]:
    """Hold the partition's lock, which the kernel releases even if we are killed."""
    with (directory / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
