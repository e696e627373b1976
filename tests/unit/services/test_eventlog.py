"""Somebody's log becomes our events: names, units, ids, and what is refused."""

import json
import math
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from services.logs.columns import parse_mapping
from services.logs.eventlog import (
    MAX_VALUE_BYTES,
    EventReader,
    LogEvent,
    read_events,
    timestamp_text,
)
from services.logs.rows import BadRow, open_rows
from tests.builders import event_json

FOREIGN = parse_mapping(["event_type=event", "item_id=item", "event_timestamp=ts_ms:ms"])
ROW = {"ts_ms": 1470035212637, "user_id": "u1", "session_id": 7, "event": "click", "item": 1}


def lines(path: Path, *rows: Any) -> Path:
    texts = [row if isinstance(row, str) else json.dumps(row) for row in rows]
    path.write_text("".join(f"{text}\n" for text in texts))
    return path


def events(path: Path, mapping: Any = FOREIGN) -> list[LogEvent]:
    return list(read_events(path, mapping))


def test_columns_are_renamed_and_integer_ids_become_text(tmp_path: Path) -> None:
    """A shop's own names and numeric ids are the rule, not the exception."""
    (event,) = events(lines(tmp_path / "log.jsonl", ROW))

    sent = json.loads(event.value)
    assert {name: sent[name] for name in ("event_type", "item_id", "session_id", "user_id")} == {
        "event_type": "click",
        "item_id": "1",
        "session_id": "7",
        "user_id": "u1",
    }
    assert sent["event_timestamp"] == "2016-08-01T07:06:52.637Z"
    assert event.key == b"u1"


def test_all_formats_give_the_same_events(tmp_path: Path) -> None:
    """Ids are hashes of the fields: a log converted to another format must not count twice."""
    rows = [ROW, {**ROW, "ts_ms": ROW["ts_ms"] + 1, "item": 2}]
    from_lines = events(lines(tmp_path / "log.jsonl", *rows))
    text = "\n".join(",".join(map(str, row.values())) for row in rows)
    (tmp_path / "log.csv").write_text(f"{','.join(ROW)}\n{text}\n")
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "log.parquet")

    assert [event.value for event in events(tmp_path / "log.csv")] == [
        event.value for event in from_lines
    ]
    assert events(tmp_path / "log.parquet") == from_lines


def test_equal_rows_are_different_events_with_the_same_ids_on_every_reading(
    tmp_path: Path,
) -> None:
    """Two clicks in one millisecond are two clicks; the same log read again adds none."""
    path = lines(tmp_path / "log.jsonl", ROW, ROW, {**ROW, "item": 2}, ROW)

    first, second = ([event.event.event_id for event in events(path)] for _ in range(2))

    assert len(set(first)) == 4
    assert first == second


def test_our_own_events_are_published_byte_for_byte(tmp_path: Path) -> None:
    """Fields of later versions pass through a tool that does not know them yet."""
    line = json.dumps({"future": [1, 2], **event_json()}, indent=None, separators=(" , ", " : "))
    (event,) = events(lines(tmp_path / "log.jsonl", line), {})

    assert event.value == line.encode()


def test_missing_values_of_pandas_are_left_out(tmp_path: Path) -> None:
    """NaN is no price, and an empty CSV cell no query."""
    row = {**ROW, "price": math.nan, "quantity": 2.0, "order_id": None, "query": ""}
    path = tmp_path / "log.parquet"
    pq.write_table(pa.Table.from_pylist([row]), path)

    sent = json.loads(events(path)[0].value)

    assert sent["quantity"] == 2
    assert not {"price", "order_id", "query"} & sent.keys()


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"event": "teleport"}, "event_type"),
        ({"item": None}, "item_id"),
        ({"ts_ms": "soon"}, "event_timestamp"),
        ({"ts_ms": None}, "event_timestamp"),
        ({"ts_ms": 1 << 70}, "event_timestamp"),
        ({"ts_ms": 32503680000000}, "event_timestamp"),  # the year 3000
        ({"user_id": "x" * 257}, "user_id"),
        ({"user_id": ["u1"]}, "user_id"),
        ({"price": -1}, "price"),
        ({"query": "x" * MAX_VALUE_BYTES}, "value"),
    ],
)
def test_a_bad_row_is_named_with_its_line_and_field(
    tmp_path: Path, change: dict[str, Any], named: str
) -> None:
    """Refused by the producer, with a place to look at, and not by the worker an hour later."""
    path = lines(tmp_path / "log.jsonl", ROW, "", {**ROW, **change})

    with pytest.raises(BadRow, match=rf"line 3: .*{named}"):
        events(path)


@pytest.mark.parametrize("line", ["not json", "[1]", '{"a": 1', '"text"', "\ufeff{}"])
def test_a_line_that_is_no_object_is_named(tmp_path: Path, line: str) -> None:
    """The commonest accident: half a line, a header, another format."""
    with pytest.raises(BadRow, match="line 2: value: not"):
        events(lines(tmp_path / "log.jsonl", ROW, line))


def test_invalid_utf8_is_named_in_text_formats(tmp_path: Path) -> None:
    """Latin-1 exports exist. They are refused, not mangled."""
    (tmp_path / "log.csv").write_bytes(b"ts_ms,user_id,event,item\n1470035212637,u\xe9,click,1\n")
    (tmp_path / "log.jsonl").write_bytes(b'{"user_id": "u\xe9"}\n')

    for name in ("log.csv", "log.jsonl"):
        with pytest.raises(BadRow, match=r"line \d: value"):
            events(tmp_path / name)


def test_a_csv_row_with_too_few_cells_is_named(tmp_path: Path) -> None:
    """Never shifted into the wrong columns."""
    (tmp_path / "log.csv").write_text("ts_ms,user_id,event,item\n1,u1,click\n")

    with pytest.raises(BadRow, match="line 2: value: 3 cells under 4 columns"):
        events(tmp_path / "log.csv")


def test_a_mapped_column_that_is_not_there_is_named(tmp_path: Path) -> None:
    """A slip in --map is not a million bad rows."""
    (tmp_path / "log.csv").write_text("ts_ms,user_id,event,item\n")

    with (
        open_rows(tmp_path / "log.csv", "csv", ()) as log,
        pytest.raises(click.UsageError, match="no column itm; there are ts_ms, user_id"),
    ):
        log.require(["ts_ms", "itm"])


def test_times_are_never_guessed() -> None:
    """A number without a unit, or a clock without a zone, could be off by hours or aeons."""
    with pytest.raises(BadRow, match="declare"):
        timestamp_text(1470035212637, None)
    with pytest.raises(BadRow, match="no time zone"):
        timestamp_text(datetime(2016, 8, 1), "ms")


@pytest.mark.parametrize(
    ("value", "unit", "text"),
    [
        (1470035212637, "ms", "2016-08-01T07:06:52.637Z"),
        ("1470035212637", "ms", "2016-08-01T07:06:52.637Z"),
        (1470035212, "s", "2016-08-01T07:06:52.000Z"),
        (1470035212.637, "s", "2016-08-01T07:06:52.637Z"),
        (1470035212637001, "us", "2016-08-01T07:06:52.637001Z"),
        (1470035212637001999, "ns", "2016-08-01T07:06:52.637001Z"),
        (-1, "ms", "1969-12-31T23:59:59.999Z"),
        (datetime(2016, 8, 1, tzinfo=UTC), None, "2016-08-01T00:00:00+00:00"),
    ],
)
def test_times_keep_their_microseconds(value: Any, unit: str | None, text: str) -> None:
    """40 % of a real shop's events share a millisecond; what order there is must stay."""
    assert timestamp_text(value, unit) == text


def test_constants_fill_what_the_log_lacks(tmp_path: Path) -> None:
    """A shop with one currency seldom writes it down."""
    reader = EventReader(FOREIGN, {"currency": "USD"})
    with open_rows(lines(tmp_path / "log.jsonl", ROW), "jsonl", ()) as log:
        event = reader.read(0, next(log.rows))

    assert event.event.currency == "USD"
