"""Rows of somebody's log become our events: renamed, converted, given an id, and checked."""

import math
import time
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import orjson
import xxhash

from services.logs.columns import CONTEXT_FIELDS, FIELDS, NANOSECONDS, Column, column_of
from services.logs.rows import BadRow, Row, format_of, open_rows
from stream import topics
from stream.events import Event, InvalidEvent, parse_event

CONTEXT = "context"
NUMBERS = {"price", "quantity"}
# Kafka counts key, headers and framing too.
MAX_VALUE_BYTES = topics.TOPICS[topics.EVENTS].max_record_bytes - 4096


@dataclass(frozen=True, slots=True)
class LogEvent:
    """An event of a log, ready to publish."""

    row: int  # 0-based place in the log
    line: int  # where a person finds it
    event: Event
    value: bytes

    @property
    def key(self) -> bytes:
        """The record's key."""
        return self.event.user_id.encode()


class EventReader:
    """
    Turns rows into events. One reader a log, from its beginning: ids depend on the rows before.

    Where the log has no ids, ``event_id`` is a hash of the row's fields and of its ordinal among
    equal rows, so that the same log read again gives the same ids, and two equal rows stay two
    events. For that it remembers eight bytes of every row (about 100 bytes in Python).
    """

    def __init__(
        self,
        mapping: Mapping[str, Column] | None = None,
        constants: Mapping[str, str] | None = None,
        *,
        max_ahead_s: float = 300.0,
    ) -> None:
        self._mapping = dict(mapping or {})
        self._constants = dict(constants or {})
        self._max_ahead_ms = int(max_ahead_s * 1000)
        self._columns = [(field, column_of(self._mapping, field)) for field in FIELDS]
        self._ordinals: dict[int, int] = {}

    @property
    def columns(self) -> set[str]:
        """The columns that are read."""
        return {column.name for _, column in self._columns} | {CONTEXT}

    def read(self, index: int, row: Row) -> LogEvent:
        """
        The event in *row*.

        Raises:
            BadRow: Naming the field at fault and the rule.
        """
        if row.fault is not None:
            raise BadRow(row.fault)
        value = self._value(row)
        if len(value) > MAX_VALUE_BYTES:
            raise BadRow(f"value: larger than {MAX_VALUE_BYTES:,} bytes")
        now_ms = time.time_ns() // 1_000_000
        try:
            event = parse_event(value, kafka_timestamp_ms=now_ms, max_ahead_ms=self._max_ahead_ms)
        except InvalidEvent as error:
            raise BadRow(str(error)) from error
        return LogEvent(index, row.line, event, value)

    def _value(self, row: Row) -> bytes:
        has_id = column_of(self._mapping, "event_id").name in row.values
        if has_id and row.raw is not None and not self._mapping and not self._constants:
            return row.raw  # ours already: every byte as it is, fields of later versions included
        fields = self._fields(row.values)
        try:
            if "event_id" not in fields:
                fields["event_id"] = self._id_of(orjson.dumps(fields))
            return orjson.dumps(fields)
        except TypeError as error:
            raise BadRow(f"value: cannot be JSON ({error})") from error

    def _fields(self, values: Mapping[str, Any]) -> dict[str, Any]:
        fields: dict[str, Any] = dict(self._constants)
        for field, column in self._columns:
            value = values.get(column.name)
            if value is None or value == "" or value != value:  # NaN is how pandas says "none"
                continue
            if field == "event_timestamp":
                value = timestamp_text(value, column.unit)
            elif field in NUMBERS:
                value = _number(field, value)
            elif type(value) is int:
                value = str(value)
            fields[field] = value
        context = values.get(CONTEXT)
        nested = dict(context) if isinstance(context, dict) else {}
        nested |= {f.removeprefix("context."): fields.pop(f) for f in CONTEXT_FIELDS if f in fields}
        if nested := {name: item for name, item in nested.items() if item is not None}:
            fields[CONTEXT] = nested
        return fields

    def _id_of(self, fields: bytes) -> str:
        short = xxhash.xxh3_64_intdigest(fields)
        ordinal = self._ordinals.get(short, 0)
        self._ordinals[short] = ordinal + 1
        return xxhash.xxh3_128_hexdigest(fields + b"#%d" % ordinal)


def read_events(
    path: Path, mapping: Mapping[str, Column] | None = None, *, format_name: str | None = None
) -> Iterator[LogEvent]:
    """
    Every event of a log, in its order.

    Raises:
        BadRow: At the first row that is not an event, naming line, field and rule.
    """
    reader = EventReader(mapping)
    with open_rows(path, format_of(path, format_name), reader.columns) as log:
        yield from _checked(log.rows, reader)


def _checked(rows: Iterable[Row], reader: EventReader) -> Iterator[LogEvent]:
    for index, row in enumerate(rows):
        try:
            yield reader.read(index, row)
        except BadRow as error:
            raise BadRow(f"line {row.line}: {error}") from error


def timestamp_text(value: Any, unit: str | None) -> Any:
    """
    RFC 3339 text of a log's timestamp, to the microsecond.

    Args:
        value: Text, an aware datetime, or a number in *unit*.
        unit: A key of `NANOSECONDS`, or None where the log has no numbers.

    Raises:
        BadRow: If a number has no unit, or a datetime no time zone: neither is ever guessed.
    """
    if isinstance(value, datetime):
        if value.tzinfo is None:
            raise BadRow("event_timestamp: has no time zone")
        return value.isoformat()
    if unit is None:
        if isinstance(value, str):
            return value
        raise BadRow("event_timestamp: a number; declare --map event_timestamp=COLUMN:UNIT")
    try:
        return _from_epoch(value, NANOSECONDS[unit])
    except (ValueError, OverflowError, TypeError, OSError) as error:
        raise BadRow(f"event_timestamp: not a time in {unit}") from error


def _from_epoch(value: Any, unit_ns: int) -> str:
    if isinstance(value, str):
        value = int(value) if value.strip().lstrip("+-").isdigit() else float(value)
    if isinstance(value, bool) or not math.isfinite(value):
        raise ValueError
    # A float of seconds holds microseconds at best: more digits would be noise.
    ns = value * unit_ns if isinstance(value, int) else round(value * (unit_ns / 1000)) * 1000
    seconds, ns = divmod(ns, 1_000_000_000)
    whole = datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%S")
    fraction = f"{ns // 1_000_000:03d}" if ns % 1_000_000 == 0 else f"{ns // 1000:06d}"
    return f"{whole}.{fraction}Z"


def _number(field: str, value: Any) -> Any:
    """Text as a number, ``2.0`` pieces as 2; what is neither is left for the check to refuse."""
    if isinstance(value, str):
        try:
            value = float(value)
        except ValueError:
            return value
    if field == "quantity" and isinstance(value, float) and value.is_integer():
        return int(value)
    return value


def parse_constants(options: Iterable[str], fields: Collection[str] = FIELDS) -> dict[str, str]:
    """
    Read ``FIELD=VALUE`` options, such as ``currency=USD``.

    Raises:
        BadRow: If an option is malformed or names an unknown field.
    """
    constants = {}
    for option in options:
        field, equals, value = option.partition("=")
        if not equals or field not in fields:
            raise BadRow(f"--set {option}: write it as FIELD=VALUE with a field of the event.")
        constants[field] = value
    return constants
