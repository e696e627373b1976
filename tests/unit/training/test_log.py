"""Reading logs: the formats agree, and what is wrong is said in one line."""

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner

from services.archive.reader import SCHEMA, append, partition_dir
from services.cli import main
from services.logs.columns import Column, parse_mapping
from services.training.log import UnreadableLog, read_log
from stream.event_types import EventType

ROWS = [
    {"event": "view", "item": 7, "ts": 2_000, "user_id": "u", "session_id": "s"},
    {"event": "click", "item": 8, "ts": 1_000, "user_id": "u", "session_id": "s"},
    {"event": "impression", "item": 9, "ts": 1_500, "user_id": "v", "session_id": "s"},
    {"event": "purchase", "item": 7, "ts": 2_000, "user_id": "v", "session_id": "s"},
]
MAPPING = parse_mapping(["event_type=event", "item_id=item", "event_timestamp=ts:ms"])


def an_event(**changes: object) -> dict[str, object]:
    return {
        "event_id": "e-1",
        "event_type": "click",
        "event_timestamp": "2016-08-01T12:00:00.123Z",
        "user_id": "u",
        "item_id": "hat",
        **changes,
    }


def jsonl(path: Path, *rows: dict[str, object]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_parquet_and_json_lines_give_the_same_log(tmp_path: Path):
    """Impressions are no actions; sessions of one name are two users' own; order is of time."""
    pq.write_table(pa.Table.from_pylist(ROWS), tmp_path / "log.parquet")
    jsonl(tmp_path / "log.jsonl", *ROWS)

    for name in ("log.parquet", "log.jsonl"):
        log = read_log(tmp_path / name, MAPPING)

        assert [log.item_ids[item] for item in log.items] == ["8", "7", "7"]
        assert log.types.tolist() == [EventType.CLICK, EventType.VIEW, EventType.PURCHASE]
        assert log.times_ms.tolist() == [1_000, 2_000, 2_000]
        assert log.sessions[0] == log.sessions[1] != log.sessions[2]


def test_our_own_events_need_no_mapping(tmp_path: Path):
    """What `headrace simulate` and the archive hold; searches have no item, doubles count once."""
    path = jsonl(
        tmp_path / "log.jsonl",
        an_event(),
        an_event(),
        an_event(event_id="e-2", event_timestamp="2016-08-01T14:00:00.124+02:00"),
        an_event(event_id="e-3", event_type="search", item_id=None, query="hats"),
    )

    log = read_log(path, {})

    assert log.times_ms.tolist() == [1_470_052_800_123, 1_470_052_800_124]


def test_the_archive_is_read_as_the_worker_read_it(tmp_path: Path):
    """Dead letters and far-future events teach nothing; an event that came twice counts once."""
    day_ms = 86_400_000
    values = [
        json.dumps(an_event()).encode(),
        b"not json",
        json.dumps(an_event()).encode(),
        json.dumps(an_event(event_id="e-2", event_timestamp="2099-01-01T00:00:00Z")).encode(),
        None,
        json.dumps(an_event(event_id="e-3", item_id=7)).encode(),
    ]
    rows = [
        {
            "partition": 3,
            "offset": offset,
            "kafka_timestamp_ms": 1_470_052_800_123 + day_ms,
            "key": b"u",
            "value": value,
            "headers": [],
        }
        for offset, value in enumerate(values)
    ]
    directory = partition_dir(tmp_path / "archive" / "events.v1", 3)
    append(directory, pa.Table.from_pylist(rows, schema=SCHEMA))

    for path in (tmp_path / "archive", tmp_path / "archive" / "events.v1"):
        log = read_log(path, {})

        assert [log.item_ids[item] for item in log.items] == ["hat", "7"]


@pytest.mark.parametrize(
    ("row", "complaint"),
    [
        (an_event(event_type="clickk"), "unknown event type 'clickk'"),
        (an_event(event_timestamp=1_470_052_800_123), "its unit is never guessed"),
        (an_event(event_timestamp="yesterday"), "RFC 3339"),
        (an_event(user_id=None), "line 1: no 'user_id'"),
    ],
)
def test_a_bad_row_is_named(tmp_path: Path, row: dict[str, object], complaint: str):
    """A traceback helps nobody to find line 48,211."""
    with pytest.raises(UnreadableLog, match=complaint):
        read_log(jsonl(tmp_path / "log.jsonl", row), {})


@pytest.mark.parametrize("content", [b"not json\n", b"[1]\n", b"", b"\xff\xfe\n"])
def test_the_command_refuses_garbage_in_one_line(tmp_path: Path, content: bytes):
    """Exit code 2 and the reason, for people and for scripts."""
    path = tmp_path / "log.jsonl"
    path.write_bytes(content)

    result = CliRunner().invoke(main, ["train", str(path), "--out", str(tmp_path / "out")])

    assert result.exit_code == 2
    assert result.stderr.count("\n") == 1 and "log.jsonl" in result.stderr


def test_a_column_that_is_missing_is_named_with_the_next_step(tmp_path: Path):
    """The log's owner knows the right name, we do not."""
    pq.write_table(pa.Table.from_pylist(ROWS), tmp_path / "log.parquet")

    with pytest.raises(UnreadableLog, match="--map item_id=COLUMN"):
        read_log(
            tmp_path / "log.parquet",
            {"event_timestamp": Column("ts", "ms"), "event_type": Column("event")},
        )
