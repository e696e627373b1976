"""Rows of a log, whatever its format: JSON Lines, CSV or Parquet, from a file or standard input."""

import csv
import shutil
import sys
import tempfile
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from io import TextIOWrapper
from pathlib import Path
from typing import Any, BinaryIO

import click
import orjson

from services.errors import CommandFailed

FORMATS = ("jsonl", "csv", "parquet")
SUFFIXES = {".jsonl": "jsonl", ".ndjson": "jsonl", ".csv": "csv", ".parquet": "parquet"}
STANDARD_INPUT = Path("-")
MAX_LINE_BYTES = 4 * 1024 * 1024
BATCH_ROWS = 4096


class BadRow(Exception):
    """A row is not what it should be. The text names the field and the rule."""


@dataclass(slots=True)
class Row:
    """One row as it lies in the log."""

    line: int  # where a person finds it: line of the text, or row of the Parquet file, from 1
    values: dict[str, Any]
    raw: bytes | None = None  # the bytes of a JSON line
    fault: str | None = None  # why it could not even be read


@dataclass(slots=True)
class Rows:
    """An open log."""

    rows: Iterator[Row]
    total: int | None  # rows if known, else bytes if known, else None
    total_is_bytes: bool
    stream: BinaryIO
    names: list[str] | None = None  # of its columns, where the format declares them

    def consumed(self, rows: int) -> int:
        """How much of `total` is read after *rows* rows."""
        return self.stream.tell() if self.total_is_bytes and self.total is not None else rows

    def require(self, columns: Collection[str]) -> None:
        """
        Check that the log has the columns that were mapped.

        Raises:
            click.UsageError: Naming the ones that it has not, and those that it has.
        """
        if self.names is None or not (absent := sorted(set(columns) - set(self.names))):
            return
        raise click.UsageError(
            f"--map: there is no column {', '.join(absent)}; there are {', '.join(self.names)}."
        )


def format_of(path: Path, name: str | None) -> str:
    """The format: *name* if given, else by the suffix; standard input is JSON Lines."""
    if name is not None:
        return name
    if path == STANDARD_INPUT:
        return "jsonl"
    if path.suffix not in SUFFIXES:
        raise click.UsageError(f"{path.name}: say what it is with --format {'|'.join(FORMATS)}.")
    return SUFFIXES[path.suffix]


@contextmanager
def open_rows(path: Path, format_name: str, columns: Collection[str]) -> Iterator[Rows]:
    """
    Open a log, reading no more of it than is asked for.

    Args:
        path: The file; ``-`` is standard input.
        format_name: One of `FORMATS`.
        columns: What to read of a Parquet file (the other formats cannot skip columns).

    Raises:
        CommandFailed: If the file is not of that format.
    """
    if path == STANDARD_INPUT:
        yield _rows_of(sys.stdin.buffer, format_name, columns, total_bytes=None)
    else:
        with path.open("rb") as stream:
            yield _rows_of(stream, format_name, columns, total_bytes=path.stat().st_size)


def _rows_of(
    stream: BinaryIO, format_name: str, columns: Collection[str], total_bytes: int | None
) -> Rows:
    if format_name == "parquet":
        return _parquet(stream, columns, seekable=total_bytes is not None)
    if format_name == "jsonl":
        return Rows(_json_lines(stream), total_bytes, total_is_bytes=True, stream=stream)
    # Bytes that are not UTF-8 become surrogates here, and are refused with their line later on.
    text = TextIOWrapper(stream, encoding="utf-8-sig", errors="surrogateescape", newline="")
    reader = csv.reader(text, strict=True)
    names = next(reader, [])
    rows = _csv_rows(reader, names)
    return Rows(rows, total_bytes, total_is_bytes=True, stream=stream, names=names)


def _json_lines(stream: BinaryIO) -> Iterator[Row]:
    line = 0
    while raw := stream.readline(MAX_LINE_BYTES):
        line += 1
        if len(raw) == MAX_LINE_BYTES and not raw.endswith(b"\n"):
            while (rest := stream.readline(MAX_LINE_BYTES)) and not rest.endswith(b"\n"):
                pass
            yield Row(line, {}, fault=f"value: longer than {MAX_LINE_BYTES:,} bytes")
            continue
        raw = raw.strip()
        if not raw:
            continue
        try:
            values = orjson.loads(raw)
        except orjson.JSONDecodeError as error:
            yield Row(line, {}, raw, fault=f"value: not JSON ({error})")
            continue
        if isinstance(values, dict):
            yield Row(line, values, raw)
        else:
            yield Row(line, {}, raw, fault="value: not a JSON object")


def _csv_rows(reader: Any, header: list[str]) -> Iterator[Row]:
    while True:
        line = reader.line_num + 1
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            yield Row(line, {}, fault=f"value: not CSV ({error})")
            continue
        if len(cells) == len(header):
            yield Row(line, dict(zip(header, cells, strict=True)))
        elif cells:
            yield Row(line, {}, fault=f"value: {len(cells)} cells under {len(header)} columns")


def _parquet(stream: BinaryIO, columns: Collection[str], *, seekable: bool) -> Rows:
    import pyarrow as pa
    import pyarrow.parquet as pq

    if not seekable:  # Parquet keeps its directory at the end
        spool: BinaryIO = tempfile.TemporaryFile()  # noqa: SIM115 (gone with its last reference)
        shutil.copyfileobj(stream, spool)
        stream = spool
    try:
        file = pq.ParquetFile(stream)
    except pa.ArrowInvalid as error:
        raise CommandFailed(f"not a Parquet file: {error}") from error
    names = [name for name in file.schema_arrow.names if name in columns]
    batches = file.iter_batches(batch_size=BATCH_ROWS, columns=names)
    rows = _parquet_rows(batches)
    total = file.metadata.num_rows
    return Rows(rows, total, total_is_bytes=False, stream=stream, names=file.schema_arrow.names)


def _parquet_rows(batches: Iterator[Any]) -> Iterator[Row]:
    line = 0
    for batch in batches:
        names = batch.schema.names
        lists = [_values(column) for column in batch.columns]
        for cells in zip(*lists, strict=True):
            line += 1
            yield Row(line, dict(zip(names, cells, strict=True)))


def _values(column: Any) -> list[Any]:
    import pyarrow as pa

    if pa.types.is_timestamp(column.type) and column.type.unit == "ns":
        # Python's datetime holds microseconds.
        column = column.cast(pa.timestamp("us", column.type.tz), safe=False)
    values: list[Any] = column.to_pylist()
    return values
