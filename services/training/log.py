"""An event log as columns, from Parquet, JSON Lines or the archive: what training reads."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from services.archive.reader import read_archive
from services.errors import CommandFailed
from services.logs.columns import CONTEXT_FIELDS, NANOSECONDS, Column, column_of
from services.settings import WorkerSettings
from stream.context import country_code, device_code, pack, page_code
from stream.event_types import BY_NAME, EventType
from stream.events import InvalidEvent, parse_event
from stream.topics import EVENTS

REQUIRED = ("event_type", "event_timestamp", "user_id", "item_id")
OPTIONAL = ("event_id", "session_id", "price", *CONTEXT_FIELDS)
# What a user's row keeps apart from their actions, so that the ranker never reads it.
NOT_ACTIONS = (EventType.IMPRESSION, EventType.SEARCH)


class UnreadableLog(CommandFailed):
    """The log cannot be trained on; the message says where and why."""


@dataclass(frozen=True)
class EventLog:
    """
    Actions on items, by time; those of one millisecond in the order of the log.

    Attributes:
        item_ids: ``(V,)`` external ids; `items` are places in it.
        users, items, types, times_ms, sessions: ``(E,)``. A session is one of one user, -1 if
            the log does not say.
        prices: ``(E,)`` NaN where the log does not say.
        contexts: ``(E,)`` packed; see `stream.context.pack`.
    """

    item_ids: tuple[str, ...]
    users: NDArray[np.int64]
    items: NDArray[np.int64]
    types: NDArray[np.int64]
    times_ms: NDArray[np.int64]
    sessions: NDArray[np.int64]
    prices: NDArray[np.float32]
    contexts: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.users)

    def where(self, mask: NDArray[np.bool_]) -> "EventLog":
        """Only the events in *mask*, with the same item ids."""
        return EventLog(self.item_ids, *(column[mask] for column in self._columns()))

    def by_time(self) -> "EventLog":
        """The same events in order of time; those of one millisecond stay as they were."""
        order = np.argsort(self.times_ms, kind="stable")
        return EventLog(self.item_ids, *(column[order] for column in self._columns()))

    def _columns(self) -> tuple[NDArray[Any], ...]:
        actions = (self.users, self.items, self.types, self.times_ms)
        return (*actions, self.sessions, self.prices, self.contexts)


def read_log(path: Path, mapping: Mapping[str, Column]) -> EventLog:
    """
    Read *path*: a Parquet file, JSON Lines, or a directory written by the archiver.

    Raises:
        UnreadableLog: If a column is missing, or an event cannot be read.
    """
    if path.is_dir():
        table = _rows_as_table(_archived(path), {}, path)
    elif path.suffix == ".parquet":
        table = _read_parquet(path, mapping)
    else:
        table = _rows_as_table(_json_lines(path), mapping, path)
    return _from_table(table, path)


def _read_parquet(path: Path, mapping: Mapping[str, Column]) -> pa.Table:
    try:
        names = set(pq.read_schema(path).names)
    except (pa.ArrowInvalid, OSError) as error:
        raise UnreadableLog(f"{path}: not a Parquet file ({error}).") from error
    columns = {field: column_of(mapping, field) for field in (*REQUIRED, *OPTIONAL)}
    for field in REQUIRED:
        if columns[field].name not in names:
            raise UnreadableLog(
                f"{path}: no column {columns[field].name!r}; it has {', '.join(sorted(names))}. "
                f"Name the right one with --map {field}=COLUMN."
            )
    present = {field: column for field, column in columns.items() if column.name in names}
    table = pq.read_table(path, columns=sorted({column.name for column in present.values()}))
    return pa.table(
        {
            field: _times_ms(table[column.name], column.unit, path)
            if field == "event_timestamp"
            else table[column.name]
            for field, column in present.items()
        }
    )


def _json_lines(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
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
            yield f"line {number}", row


def _archived(directory: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    topic_dir = directory / EVENTS if (directory / EVENTS).is_dir() else directory
    if not any(topic_dir.glob("partition=*/*.parquet")):
        raise UnreadableLog(f"{directory}: no partition=P/*.parquet in it; is it the archive?")
    max_ahead_ms = round(WorkerSettings().max_ahead_s * 1000)
    for batch in read_archive(topic_dir):
        values, times_ms = batch["value"].to_pylist(), batch["kafka_timestamp_ms"].to_pylist()
        for value, time_ms in zip(values, times_ms, strict=True):
            try:
                parse_event(value, kafka_timestamp_ms=time_ms or 0, max_ahead_ms=max_ahead_ms)
            except InvalidEvent:
                continue  # the worker has dead-lettered it
            yield "an archived event", orjson.loads(value or b"")


def _rows_as_table(
    rows: Iterator[tuple[str, dict[str, Any]]], mapping: Mapping[str, Column], path: Path
) -> pa.Table:
    columns = {field: column_of(mapping, field) for field in (*REQUIRED, *OPTIONAL)}
    values: dict[str, list[Any]] = {field: [] for field in columns}
    for where, row in rows:
        for field, column in columns.items():
            value = _value(row, field, column.name)
            if value is None and field in REQUIRED and row.get("event_type") != "search":
                raise UnreadableLog(f"{path}, {where}: no {column.name!r}.")
            values[field].append(
                str(value) if value is not None and field != "event_timestamp" else value
            )
    try:
        table = {field: pa.array(column) for field, column in values.items()}
    except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
        raise UnreadableLog(f"{path}: values of several types in one field ({error}).") from error
    times = pa.chunked_array([table["event_timestamp"]])
    table["event_timestamp"] = _times_ms(times, columns["event_timestamp"].unit, path)
    return pa.table(table)


def _value(row: dict[str, Any], field: str, name: str) -> Any:
    if name in row or field not in CONTEXT_FIELDS:
        return row.get(name)
    context = row.get("context")
    return context.get(field.partition(".")[2]) if isinstance(context, dict) else None


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
        reason = str(error).splitlines()[0]
        raise UnreadableLog(f"{path}: event_timestamp must be RFC 3339 ({reason}).") from error


def _from_table(table: pa.Table, path: Path) -> EventLog:
    types = _type_codes(table["event_type"], path)
    wanted = ~np.isin(types, NOT_ACTIONS) & table["item_id"].is_valid().to_numpy()
    if "event_id" in table.column_names and table["event_id"].null_count == 0:
        wanted &= _first_of_each(table["event_id"])
    table, types = table.filter(pa.array(wanted)), types[wanted]
    if len(table) == 0:
        raise UnreadableLog(f"{path}: no actions on items in it.")
    users, _ = _codes(table["user_id"])
    items, item_ids = _codes(table["item_id"])
    sessions = np.full(len(table), -1, np.int64)
    if "session_id" in table.column_names and table["session_id"].null_count == 0:
        within, names = _codes(table["session_id"])
        sessions = users * len(names) + within  # the same session_id may be two users'
    times = table["event_timestamp"].to_numpy().astype(np.int64)
    log = EventLog(
        tuple(item_ids),
        users,
        items,
        types,
        times,
        sessions,
        prices=_prices(table, path),
        contexts=_contexts(table, times),
    )
    return log.by_time()


def _prices(table: pa.Table, path: Path) -> NDArray[np.float32]:
    if "price" not in table.column_names:
        return np.full(len(table), np.nan, np.float32)
    try:
        prices = table["price"].cast(pa.float32(), safe=False)
    except pa.ArrowInvalid as error:
        raise UnreadableLog(f"{path}: price must be a number ({error}).") from error
    return prices.to_numpy().astype(np.float32)  # null becomes NaN


def _contexts(table: pa.Table, times_ms: NDArray[np.int64]) -> NDArray[np.int64]:
    def codes(field: str, code: Callable[[str], int]) -> NDArray[np.int64]:
        if field not in table.column_names or table[field].null_count == len(table):
            return np.zeros(len(table), np.int64)
        places, names = _codes(table[field].fill_null(pa.scalar("")))
        return np.array([code(name) for name in names], np.int64)[places]

    return pack(
        codes("context.page", page_code),
        codes("context.device", device_code),
        codes("context.country", country_code),
        times_ms // 3_600_000 % 24 + 1,
    )


def _type_codes(names: "pa.ChunkedArray[Any]", path: Path) -> NDArray[np.int64]:
    codes, distinct = _codes(names)
    if unknown := sorted(set(distinct) - BY_NAME.keys()):
        raise UnreadableLog(f"{path}: unknown event type {unknown[0]!r}.")
    return np.array([BY_NAME[name] for name in distinct], np.int64)[codes]


def _first_of_each(values: "pa.ChunkedArray[Any]") -> NDArray[np.bool_]:
    codes, _ = _codes(values)
    first = np.zeros(len(codes), bool)
    first[np.unique(codes, return_index=True)[1]] = True
    return first


def _codes(values: "pa.ChunkedArray[Any]") -> tuple[NDArray[np.int64], list[str]]:
    encoded = values.cast(pa.string()).combine_chunks().dictionary_encode()
    if isinstance(encoded, pa.ChunkedArray):
        encoded = encoded.combine_chunks()
    indices = encoded.indices.to_numpy(zero_copy_only=False).astype(np.int64)
    return indices, [str(value) for value in encoded.dictionary.to_pylist()]
