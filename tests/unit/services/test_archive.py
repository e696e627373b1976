"""The archive's promise: every record once, whole files only, names that are the progress."""

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from services.archive import reader as archive


def records(first: int, last: int, partition: int = 3) -> pa.Table:
    columns: dict[str, list[Any]] = {
        "partition": [partition] * (last - first + 1),
        "offset": list(range(first, last + 1)),
        "kafka_timestamp_ms": [1_470_000_000_000] * (last - first + 1),
        "key": [b"ada"] * (last - first + 1),
        "value": [b"{}"] * (last - first + 1),
        "headers": [[{"name": "trace", "value": b"\x00"}]] * (last - first + 1),
    }
    return pa.Table.from_pydict(columns, schema=archive.SCHEMA)


def offsets(topic_dir: Path) -> list[int]:
    return [
        offset
        for batch in archive.read_archive(topic_dir, columns=["offset"])
        for offset in batch.column("offset").to_pylist()
    ]


def test_the_archive_goes_on_where_its_newest_file_ends(tmp_path: Path) -> None:
    """File names are the only progress there is, so they cannot disagree with the files."""
    directory = archive.partition_dir(tmp_path, 3)

    archive.append(directory, records(0, 9))
    archive.append(directory, records(10, 14))

    assert archive.next_offset(directory) == 15


def test_an_empty_archive_has_no_next_offset(tmp_path: Path) -> None:
    """Then the topic is read from its beginning, wherever that is."""
    assert archive.next_offset(archive.partition_dir(tmp_path, 3)) is None


def test_an_archiver_that_lost_its_partition_adds_only_what_is_missing(tmp_path: Path) -> None:
    """A paused process wakes up and writes what it held: nothing may be in two files."""
    directory = archive.partition_dir(tmp_path, 3)
    archive.append(directory, records(0, 14))

    added = archive.append(directory, records(10, 19))
    repeated = archive.append(directory, records(5, 12))

    assert added is not None
    assert (added.first, added.last) == (15, 19)
    assert repeated is None
    assert offsets(tmp_path) == list(range(20))


def test_a_file_that_was_being_written_at_a_kill_is_not_read_and_is_cleared(
    tmp_path: Path,
) -> None:
    """Half a Parquet file would stop every reader."""
    directory = archive.partition_dir(tmp_path, 3)
    archive.append(directory, records(0, 1))
    leftover = directory / f"{2:020}-{9:020}.unfinished"
    leftover.write_bytes(b"PAR1 half")

    before = offsets(tmp_path)
    archive.append(directory, records(2, 3))

    assert before == [0, 1]
    assert not leftover.exists()
    assert offsets(tmp_path) == [0, 1, 2, 3]


def test_partitions_are_read_in_numeric_order(tmp_path: Path) -> None:
    """Ten comes after two."""
    for partition in (10, 2):
        archive.append(
            archive.partition_dir(tmp_path, partition), records(partition, partition, partition)
        )

    assert offsets(tmp_path) == [2, 10]


def test_other_tools_read_the_archive_as_one_table(tmp_path: Path) -> None:
    """The directory names follow Hive's convention, and pandas or DuckDB rely on it."""
    archive.append(archive.partition_dir(tmp_path, 3), records(0, 2))

    table = pq.read_table(tmp_path)

    assert table.column("offset").to_pylist() == [0, 1, 2]
    assert [int(p) for p in table.column("partition").to_pylist()] == [3, 3, 3]
