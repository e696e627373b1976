"""What producers and consumers touch, on real servers: replay, watch, dead letters."""

import json
import subprocess
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import Consumer, Message, TopicPartition

from services.kafka.connection import KafkaConnection
from services.kafka.publishing import Publisher
from stream.keys import partition_of
from stream.topics import EVENTS, EVENTS_DLQ
from tests.builders import T0_MS, event_json
from tests.integration.support import HEADRACE, Processes, Servers, eventually

Headrace = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def headrace(environment: Mapping[str, str], tmp_path: Path) -> Headrace:
    """Run a command to its end."""
    import os

    def run(*arguments: str | Path, stdin: str | None = None) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            [HEADRACE, *arguments],
            env={**os.environ, **environment},
            input=stdin,
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
            cwd=tmp_path,
        )

    return run


def records(servers: str, topic: str) -> list[Message]:
    """All records of a topic, by partition."""
    consumer = Consumer({"bootstrap.servers": servers, "group.id": "test", "log_level": 0})
    found = []
    try:
        bounds = {}
        for partition in consumer.list_topics(topic, timeout=10).topics[topic].partitions:
            place = TopicPartition(topic, partition)
            bounds[partition] = consumer.get_watermark_offsets(place, timeout=10)
        consumer.assign([TopicPartition(topic, p, low) for p, (low, _) in bounds.items()])
        while len(found) < sum(high - low for low, high in bounds.values()):
            message = consumer.poll(10)
            assert message is not None
            found.append(message)
    finally:
        consumer.close()
    return found


def log_file(path: Path, events: list[dict[str, Any]]) -> Path:
    path.write_text("".join(f"{json.dumps(event)}\n" for event in events))
    return path


def without_ids(count: int, users: int = 50) -> list[dict[str, Any]]:
    return [
        event_json(
            event_id=..., at_ms=T0_MS + n // 10, user_id=f"u{n % users}", item_id=f"i{n % 3}"
        )
        for n in range(count)
    ]


async def test_a_killed_replay_goes_on_with_the_same_ids(
    headrace: Headrace, process: Processes, stack: Servers, prefix: str, tmp_path: Path
) -> None:
    """Nothing is left out, and what is sent twice carries the same id, so that it counts once."""
    topic = prefix + EVENTS
    log = log_file(tmp_path / "log.jsonl", without_ids(6000))
    running = process("replay", str(log), "--rate", "2000")
    await eventually(lambda: list(tmp_path.glob("data/replays/*.json")))
    running.kill()
    killed_after = len(records(stack.kafka, topic))

    again = headrace("replay", log)

    assert again.returncode == 0, again.stderr
    assert "Went on after" in again.stdout
    ids = [
        json.loads(message.value() or b"")["event_id"] for message in records(stack.kafka, topic)
    ]
    assert 0 < killed_after < 6000
    assert len(set(ids)) == 6000
    assert len(ids) < 6000 + 4000  # and not all of it again

    done = headrace("replay", log)
    assert "Nothing was left to publish" in done.stdout
    assert len(records(stack.kafka, topic)) == len(ids)


def test_records_lie_where_kafkas_own_partitioner_puts_them(
    headrace: Headrace, stack: Servers, prefix: str, tmp_path: Path
) -> None:
    """librdkafka's default would put most users elsewhere, and every event would be re-keyed."""
    done = headrace("backfill", log_file(tmp_path / "log.jsonl", without_ids(200)))

    assert done.returncode == 0, done.stderr
    found = records(stack.kafka, prefix + EVENTS)
    assert len(found) == 200
    for message in found:
        assert message.partition() == partition_of(message.key() or b"", 8)
        assert message.headers() == [("headrace-mode", b"backfill")]


def test_a_bad_row_ends_the_replay_with_its_line(
    headrace: Headrace, stack: Servers, prefix: str, tmp_path: Path
) -> None:
    """One clear line and exit code 2, and never a traceback; what came before is published."""
    log = log_file(tmp_path / "log.jsonl", [*without_ids(3), {"event_type": "click"}])

    failed = headrace("replay", log)

    assert failed.returncode == 2
    assert "line 4 is not an event" in failed.stderr
    assert "user_id" in failed.stderr
    assert "Traceback" not in failed.stderr
    assert len(records(stack.kafka, prefix + EVENTS)) == 3

    skipped = headrace("replay", log, "--skip-bad")
    assert skipped.returncode == 0
    assert "Passed over 1 bad row" in skipped.stdout


def test_a_log_comes_from_standard_input(headrace: Headrace, stack: Servers, prefix: str) -> None:
    """zcat log.csv.gz | headrace replay -"""
    csv = "ts,event,user_id,item\n1470052800,click,u1,i1\n1470052801,view,u1,i1\n"

    done = headrace(
        *("replay", "-", "--format", "csv", "--map", "event_type=event"),
        *("--map", "item_id=item", "--map", "event_timestamp=ts:s", "--set", "currency=EUR"),
        stdin=csv,
    )

    assert done.returncode == 0, done.stderr
    sent = [json.loads(message.value() or b"") for message in records(stack.kafka, prefix + EVENTS)]
    assert [event["event_type"] for event in sent] == ["click", "view"]
    assert {event["currency"] for event in sent} == {"EUR"}


def test_without_kafka_there_is_one_line(tmp_path: Path) -> None:
    """The commonest mistake is that nothing runs."""
    import os

    environment = {"HEADRACE_KAFKA_SERVERS": "127.0.0.1:1", "HEADRACE_DATA_DIR": str(tmp_path)}
    log = log_file(tmp_path / "log.jsonl", without_ids(1))
    failed = subprocess.run(
        [HEADRACE, "replay", log],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )

    assert failed.returncode == 2
    assert "no Kafka at 127.0.0.1:1. Start `headrace up`" in failed.stderr
    assert "Traceback" not in failed.stderr


async def test_dead_letters_are_seen_and_sent_back_once(
    headrace: Headrace, process: Processes, stack: Servers, prefix: str
) -> None:
    """Key, value and headers come back byte for byte; a second replay repeats nothing."""
    value, headers = b'\xff{"event_type": \x1b[2J', [("trace", b"\x00\x01"), ("trace", None)]
    worker = process("worker").wait_ready()
    with Publisher(KafkaConnection(stack.kafka)) as publisher:
        publisher.send(prefix + EVENTS, b"\xffkey", value, headers=headers)
    letters = await eventually(lambda: records(stack.kafka, prefix + EVENTS_DLQ))
    worker.terminate()

    shown = headrace("dlq", "show")
    sent, again = headrace("dlq", "replay", "--all"), headrace("dlq", "replay", "--all")

    assert shown.returncode == 0, shown.stderr
    assert "1 of 1 letters" in shown.stdout
    assert "\x1b" not in shown.stdout
    assert (sent.returncode, again.returncode) == (0, 2), sent.stderr
    assert len(letters) == 1
    _, back = sorted(records(stack.kafka, prefix + EVENTS), key=lambda message: message.timestamp())
    assert (back.key(), back.value(), back.headers()) == (b"\xffkey", value, headers)


def test_a_letter_goes_only_to_a_topic_of_ours(
    headrace: Headrace, stack: Servers, prefix: str
) -> None:
    """Headers are whatever somebody wrote; a forged one must not reach another topic."""
    with Publisher(KafkaConnection(stack.kafka)) as publisher:
        forged = [("headrace-source-topic", b"payments"), ("headrace-reason", b"forged")]
        publisher.send(prefix + EVENTS_DLQ, b"u1", b"{}", headers=forged)

    refused = headrace("dlq", "replay", "--all")

    assert refused.returncode == 2
    assert "names no topic of ours" in refused.stderr


async def test_a_slate_is_watched_with_titles_and_a_replay_is_followed_to_its_slates(
    headrace: Headrace, process: Processes, tmp_path: Path
) -> None:
    """The whole way, as a person sees it: the title of what was pushed, and how long it took."""
    items = [{"item_id": f"i{n}", "title": f"Hat number {n}"} for n in range(3)]
    assert headrace("catalogue", log_file(tmp_path / "items.jsonl", items)).returncode == 0
    process("worker").wait_ready()
    # Without a model nothing can be recommended until something has been visited.
    first = log_file(tmp_path / "first.jsonl", without_ids(60, users=4))
    assert headrace("replay", first, "--wait-slates").returncode == 0
    watching = process("watch", "u1", "--count", "3")
    await eventually(lambda: "Watching" in watching.output)
    slates = tmp_path / "slates.jsonl"

    followed = headrace(
        *("replay", log_file(tmp_path / "log.jsonl", without_ids(60, users=4))),
        *("--wait-slates", "--slates", slates),
    )

    assert followed.returncode == 0, followed.stderr
    assert "60 events got their slate" in followed.stdout
    lines = [json.loads(line) for line in slates.read_text().splitlines()]
    assert sorted(line["row"] for line in lines) == list(range(60))
    assert all(line["latency_ms"] >= 0 for line in lines)
    assert watching.popen.wait(30) == 0
    assert "Hat number" in watching.output
    assert " ms" in watching.output
