"""The archiver on a real broker: every record once, whatever happens to it."""

import json
import os
import signal
import urllib.request
from pathlib import Path

import pytest
from confluent_kafka import Producer

from services.archive.reader import read_archive
from stream.topics import EVENT_PARTITIONS
from tests.integration.support import Processes, Running, Servers, eventually, free_port

FAST = {"archive_roll_records": 50, "archive_roll_s": 0.3}


@pytest.fixture
def topic(prefix: str) -> str:
    return f"{prefix}events.v1"


@pytest.fixture
def directory(environment: dict[str, str], topic: str) -> Path:
    return Path(environment["HEADRACE_DATA_DIR"]) / "archive" / topic


@pytest.fixture
def producer(stack: Servers) -> Producer:
    return Producer({"bootstrap.servers": stack.kafka, "linger.ms": 5})


def produce(producer: Producer, topic: str, first: int, last: int) -> list[bytes]:
    """Spread the numbers from *first* up to *last* over the partitions."""
    values = [str(number).encode() for number in range(first, last)]
    for number, value in enumerate(values, first):
        producer.produce(topic, value, key=value, partition=number % EVENT_PARTITIONS)
    assert producer.flush(10) == 0
    return values


def archived(directory: Path) -> list[bytes]:
    return [
        value
        for batch in read_archive(directory, columns=["value"])
        for value in batch.column("value").to_pylist()
    ]


def positions(directory: Path) -> list[tuple[int, int]]:
    return [
        place
        for batch in read_archive(directory, columns=["partition", "offset"])
        for place in zip(*(column.to_pylist() for column in batch.columns), strict=True)
    ]


async def all_archived(directory: Path, values: list[bytes]) -> None:
    def complete() -> bool:
        assert sorted(archived(directory)) == sorted(values)
        return True

    await eventually(complete)
    places = positions(directory)
    assert places == sorted(set(places))


async def test_a_record_is_kept_byte_for_byte(
    process: Processes, producer: Producer, topic: str, directory: Path
) -> None:
    """The archive is what state is rebuilt from: nothing may be tidied up on the way."""
    process("archiver", **FAST).wait_ready()
    headers = [("trace", b"\xff\x00"), ("trace", b"again"), ("empty", None)]
    producer.produce(topic, b"\xfe not json", key=b"\x00key", headers=headers, partition=3)
    producer.produce(topic, None, key=None, partition=3)
    items = topic.replace("events.v1", "items.v1")
    producer.produce(items, b'{"item_id": "hat"}', key=b"hat")
    assert producer.flush(10) == 0

    await eventually(lambda: len(archived(directory)) == 2)
    await eventually(lambda: archived(directory.with_name(items)) == [b'{"item_id": "hat"}'])

    first, second = (row for batch in read_archive(directory) for row in batch.to_pylist())
    assert first.pop("kafka_timestamp_ms") > 1_700_000_000_000
    assert first == {
        "partition": 3,
        "offset": 0,
        "key": b"\x00key",
        "value": b"\xfe not json",
        "headers": [{"name": name, "value": value} for name, value in headers],
    }
    assert (second["key"], second["value"], second["headers"]) == (None, None, [])


async def test_a_kill_loses_nothing_and_repeats_nothing(
    process: Processes, producer: Producer, topic: str, directory: Path
) -> None:
    """Committed offsets run behind or ahead of the files; the files' names do not."""
    values = produce(producer, topic, 0, 2_000)
    for _ in range(3):
        archiver = process("archiver", **FAST, archiver_group="a")
        await eventually(lambda: len(archived(directory)) > 0)
        archiver.kill()
        values += produce(producer, topic, len(values), len(values) + 500)

    # A group that has committed nothing: only the files tell where to go on.
    process("archiver", **FAST, archiver_group="b")

    await all_archived(directory, values)


async def test_sigterm_finishes_the_files(
    process: Processes, producer: Producer, topic: str, directory: Path
) -> None:
    """A deployment must not wait for the next archiver to read the last half minute again."""
    port = free_port()
    archiver = process("archiver", archive_roll_s=600, metrics_port=port).wait_ready()
    values = produce(producer, topic, 0, 100)
    await eventually(lambda: b"headrace_archive_unfinished_records 100.0" in metrics(port))
    assert archived(directory) == []

    code = archiver.terminate()

    assert code == 0
    assert sorted(archived(directory)) == sorted(values)


async def test_archivers_share_the_partitions(
    process: Processes, producer: Producer, topic: str, directory: Path
) -> None:
    """One joins, one is paused until it loses its partitions and wakes up with records in hand."""
    first = process("archiver", **FAST).wait_ready()
    values = produce(producer, topic, 0, 800)
    second = process("archiver", **FAST).wait_ready()
    values += produce(producer, topic, len(values), len(values) + 800)
    await all_archived(directory, values)
    assert {"partitions_revoked", "segment_archived"} <= events_of(first)

    os.kill(second.pid, signal.SIGSTOP)
    values += produce(producer, topic, len(values), len(values) + 800)
    first.terminate()
    third = process("archiver", **FAST, archiver_group="another").wait_ready()
    await all_archived(directory, values)
    os.kill(second.pid, signal.SIGCONT)
    values += produce(producer, topic, len(values), len(values) + 800)

    await all_archived(directory, values)
    assert third.popen.poll() is None


async def test_an_archive_of_another_topic_is_not_continued(
    process: Processes, directory: Path
) -> None:
    """A topic that was made anew begins at nought: going on would mix two histories."""
    partition = directory / "partition=0"
    partition.mkdir(parents=True)
    (partition / f"{0:020}-{999:020}.parquet").write_bytes(b"")

    archiver = process("archiver", **FAST)

    assert archiver.popen.wait(60) == 2
    assert "was made anew" in archiver.output.replace("\n", " ")
    assert "Traceback" not in archiver.output


def metrics(port: int) -> bytes:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics") as page:
        return bytes(page.read())


def events_of(running: Running) -> set[str]:
    lines = (line for line in running.output.splitlines() if line.startswith("{"))
    return {json.loads(line)["event"] for line in lines}
