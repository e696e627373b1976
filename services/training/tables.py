"""Arrivals from anybody's log: Parquet or JSON Lines, with columns of any name."""

from collections.abc import Callable, Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from services.logs.columns import CONTEXT_FIELDS, NANOSECONDS, Column, column_of
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
from stream.context import country_code, device_code, pack, page_code
from stream.event_types import BY_NAME, EventType

REQUIRED = ("event_type", "event_timestamp", "user_id", "item_id")
OPTIONAL = ("event_id", "session_id", "price", *CONTEXT_FIELDS)
# What a user's row keeps apart from their actions, so that the ranker never reads it.
NOT_ACTIONS = (EventType.IMPRESSION, EventType.SEARCH)
CHUNK = 65_536
BYTES_A_LINE = 150  # about; only the number of shards depends on it


def open_parquet(path: Path, mapping: Mapping[str, Column]) -> Source:
    """The actions in a Parquet file. Raises `UnreadableLog` if a column is missing."""
    names = ItemNames()
    file, columns = _parquet_file(path, mapping)
    chunks = _from_tables(_parquet_tables(file, columns, path), names, path)
    return Source(chunks, names, file.metadata.num_rows, True, path)


def open_json_lines(path: Path, mapping: Mapping[str, Column]) -> Source:
    """The actions in a file of JSON Lines."""
    names = ItemNames()
    chunks = _from_tables(_json_tables(path, mapping), names, path)
    return Source(chunks, names, path.stat().st_size // BYTES_A_LINE, True, path)


def _parquet_file(
    path: Path, mapping: Mapping[str, Column]
) -> tuple[pq.ParquetFile, dict[str, Column]]:
    try:
        file = pq.ParquetFile(path)
    except (pa.ArrowInvalid, OSError) as error:
        raise UnreadableLog(f"{path}: not a Parquet file ({first_line(error)}).") from error
    names = set(file.schema_arrow.names)
    columns = {field: column_of(mapping, field) for field in (*REQUIRED, *OPTIONAL)}
    for field_name in REQUIRED:
        if columns[field_name].name not in names:
            raise UnreadableLog(
                f"{path}: no column {columns[field_name].name!r}; it has "
                f"{', '.join(sorted(names))}. Name the right one with --map {field_name}=COLUMN."
            )
    return file, {name: column for name, column in columns.items() if column.name in names}


def _parquet_tables(
    file: pq.ParquetFile, columns: Mapping[str, Column], path: Path
) -> Iterator[pa.Table]:
    wanted = sorted({column.name for column in columns.values()})
    try:
        for batch in file.iter_batches(CHUNK, columns=wanted):
            table = pa.Table.from_batches([batch])
            unit = columns["event_timestamp"].unit
            fields = {name: table[column.name] for name, column in columns.items()}
            fields["event_timestamp"] = _times_ms(fields["event_timestamp"], unit, path)
            yield pa.table(fields)
    except (pa.ArrowInvalid, OSError) as error:
        raise UnreadableLog(f"{path}: it is damaged ({first_line(error)}).") from error


def _json_tables(path: Path, mapping: Mapping[str, Column]) -> Iterator[pa.Table]:
    columns = {name: column_of(mapping, name) for name in (*REQUIRED, *OPTIONAL)}
    rows = _json_rows(path)
    while chunk := list(islice(rows, CHUNK)):
        values: dict[str, list[Any]] = {name: [] for name in columns}
        for number, row in chunk:
            for name, column in columns.items():
                value = _value(row, name, column.name)
                if value is None and name in REQUIRED and row.get("event_type") != "search":
                    raise UnreadableLog(f"{path}, line {number}: no {column.name!r}.")
                as_text = value is not None and name not in ("event_timestamp", "price")
                values[name].append(str(value) if as_text else value)
        try:
            table = {name: pa.chunked_array([pa.array(column)]) for name, column in values.items()}
        except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
            raise UnreadableLog(
                f"{path}: values of several types in one field ({first_line(error)})."
            ) from error
        unit = columns["event_timestamp"].unit
        table["event_timestamp"] = _times_ms(table["event_timestamp"], unit, path)
        yield pa.table(table)


def _json_rows(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    with path.open("rb") as lines:
        for number, line in enumerate(lines, start=1):
            if not line.strip():
                continue
            try:
                row = orjson.loads(line)
            except orjson.JSONDecodeError as error:
                raise UnreadableLog(f"{path}, line {number}: not JSON ({error}).") from error
            if not isinstance(row, dict):
                raise UnreadableLog(f"{path}, line {number}: not a JSON object.")
            yield number, row


def _value(row: dict[str, Any], field_name: str, name: str) -> Any:
    if name in row or field_name not in CONTEXT_FIELDS:
        return row.get(name)
    context = row.get("context")
    return context.get(field_name.partition(".")[2]) if isinstance(context, dict) else None


def _times_ms(
    times: "pa.ChunkedArray[Any]", unit: str | None, path: Path
) -> "pa.ChunkedArray[Any]":
    if pa.types.is_null(times.type):
        return times.cast(pa.int64())
    numeric = pa.types.is_integer(times.type) or pa.types.is_floating(times.type)
    if numeric and unit is None:
        raise UnreadableLog(
            f"{path}: event_timestamp is a number, and its unit is never guessed. "
            "Name it: --map event_timestamp=COLUMN:ms."
        )
    try:
        if numeric:
            scaled = pc.multiply(times.cast(pa.float64()), NANOSECONDS[unit or "ms"] / 1e6)
            return pc.floor(scaled).cast(pa.int64())
        return times.cast(pa.timestamp("ms", tz="UTC"), safe=False).cast(pa.int64())
    except pa.ArrowInvalid as error:
        rule = f"a finite number of {unit}" if numeric else "RFC 3339"
        raise UnreadableLog(
            f"{path}: event_timestamp must be {rule} ({first_line(error)})."
        ) from error


def _from_tables(tables: Iterator[pa.Table], names: ItemNames, path: Path) -> Iterator[Arrivals]:
    before = 0  # rows: the order of the log, and what breaks ties of event time
    for table in tables:
        rows = np.arange(before, before + len(table))
        before += len(table)
        types = _type_codes(table["event_type"], path)
        wanted = ~np.isin(types, NOT_ACTIONS) & table["item_id"].is_valid().to_numpy()
        actions = table.filter(pa.array(wanted))
        for name in REQUIRED:
            if nulls := actions[name].null_count:
                raise UnreadableLog(f"{path}: {name} is empty in {nulls:,} of {before:,} rows.")
        yield _arrivals(actions, rows[wanted], types[wanted], names, path)


def _arrivals(
    table: pa.Table,
    rows: NDArray[np.int64],
    types: NDArray[np.int64],
    names: ItemNames,
    path: Path,
) -> Arrivals:
    made = np.zeros(len(table), ARRIVAL)
    times_ms = table["event_timestamp"].to_numpy().astype(np.int64)
    made["user"] = _coded(table, "user_id", user_key)
    made["session"] = _sessions(table, made["user"])
    made["timestamp_ms"], made["offset"], made["event_type"] = times_ms, rows, types
    made["event_key"] = rows.astype(np.uint64)
    if "event_id" in table.column_names:
        given = table["event_id"].is_valid().to_numpy()
        made["event_key"][given] = _coded(table, "event_id", hash_of).astype(np.uint64)[given]
    made["item_key"] = _coded(table, "item_id", names.key)
    made["price"] = _prices(table, path)
    made["context"] = pack(
        _coded(table, "context.page", page_code),
        _coded(table, "context.device", device_code),
        _coded(table, "context.country", country_code),
        times_ms // 3_600_000 % 24 + 1,
    )
    return made


def _sessions(table: pa.Table, users: NDArray[np.int64]) -> NDArray[np.int64]:
    """The same session_id may be two users'."""
    if "session_id" not in table.column_names:
        return np.full(len(table), -1, np.int64)
    within = _coded(table, "session_id", hash_of)
    given = table["session_id"].is_valid().to_numpy()
    return np.where(given, (users * 31) ^ within, -1)  # wraps around, as a hash may


def _prices(table: pa.Table, path: Path) -> NDArray[np.float32]:
    if "price" not in table.column_names:
        return np.full(len(table), np.nan, np.float32)
    try:
        prices = table["price"].cast(pa.float32(), safe=False)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        raise UnreadableLog(f"{path}: price must be a number ({first_line(error)}).") from error
    values = prices.to_numpy().astype(np.float32)  # null becomes NaN
    if np.isinf(values).any() or (values < 0).any():
        raise UnreadableLog(f"{path}: price must be finite and not negative.")
    return values


def _type_codes(names: "pa.ChunkedArray[Any]", path: Path) -> NDArray[np.int64]:
    places, distinct = _distinct(names)
    if unknown := sorted(set(distinct) - BY_NAME.keys()):
        raise UnreadableLog(f"{path}: unknown event type {unknown[0]!r}.")
    return np.array([BY_NAME[name] for name in distinct], np.int64)[places]


def _coded(table: pa.Table, name: str, code: Callable[[str], int]) -> NDArray[np.int64]:
    """*code* of each text in a column; 0 for none, and if there is no such column."""
    if name not in table.column_names or table[name].null_count == len(table):
        return np.zeros(len(table), np.int64)
    places, distinct = _distinct(table[name])
    codes = np.array([code(one) for one in distinct] + [0], np.int64)  # the last is for nulls
    return codes[places]


def _distinct(values: "pa.ChunkedArray[Any]") -> tuple[NDArray[np.int64], list[str]]:
    encoded = values.cast(pa.string()).combine_chunks().dictionary_encode()
    if isinstance(encoded, pa.ChunkedArray):
        encoded = encoded.combine_chunks()
    places = encoded.indices.fill_null(-1).to_numpy(zero_copy_only=False).astype(np.int64)
    return places, [str(value) for value in encoded.dictionary.to_pylist()]
