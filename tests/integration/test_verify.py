"""What `headrace verify` finds on a running system, and a state made anew beside it."""

import asyncio
import json
import random
import sys
import threading
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import orjson
import pytest
from click.testing import CliRunner, Result
from confluent_kafka import OFFSET_END, Consumer, TopicPartition
from confluent_kafka.admin import AdminClient, NewPartitions

from features.projects import drop, keys
from services.archive.reader import record_count
from services.cli import main
from stream import topics
from stream.history import FORMAT
from stream.topics import with_prefix
from tests.builders import T0_MS, event_json
from tests.integration.ledger import QUIET, Ledger
from tests.integration.support import (
    Processes,
    Servers,
    eventually,
    fresh_environment,
)

USERS = 30


@pytest.fixture(scope="module")
def environment(
    stack: Servers, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[dict[str, str]]:
    """One shop for the whole module: each test leaves it working."""
    with fresh_environment(stack, tmp_path_factory.mktemp("verify") / "data") as environment:
        yield environment


@pytest.fixture(scope="module")
def process(
    environment: dict[str, str], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Processes]:
    processes = Processes(tmp_path_factory.mktemp("processes"), environment)
    yield processes
    processes.end()


@pytest.fixture(scope="module")
def headrace(environment: dict[str, str]) -> Callable[..., Result]:
    """Runs a command in this process: `import feast`, which takes seconds, happens once."""
    return lambda *arguments: CliRunner().invoke(main, arguments, env=environment)


def send_all_kinds(ledger: Ledger, count: int, seed: int) -> None:
    """Events of every type; some are sent twice, come late, lie elsewhere, or are none at all."""
    draw = random.Random(seed)
    kinds = ("click", "view", "impression", "add_to_cart", "purchase", "refund", "remove_from_cart")
    for number in range(count):
        event = event_json(
            event_id=f"{seed}-{number}",
            user_id=draw.choice(("u0", f"u{draw.randrange(USERS)}")),  # one has full lists
            item_id=f"i{draw.randrange(40)}",
            event_type=draw.choice(kinds),
            order_id=f"o{draw.randrange(count)}",
            at_ms=T0_MS + 1000 * number - draw.choice((0,) * 20 + (10**9,)),
        )
        key, value = event["user_id"].encode(), orjson.dumps(event)
        for _ in range(draw.choice((1,) * 50 + (2,))):
            ledger.raw(draw.choice((key,) * 50 + (b"elsewhere",)), value)
        if number % 100 == 0:
            ledger.raw(key, b"garbage")
    ledger.flush()


@pytest.fixture(scope="module")
def ledger(environment: dict[str, str]) -> Ledger:
    ledger = Ledger(environment)
    send_all_kinds(ledger, 1500, seed=1)
    return ledger


class Shift:
    """The one worker that is at work; a test may send it home and call another."""

    def __init__(self, process: Processes) -> None:
        self._process = process
        self.begin()

    def begin(self) -> None:
        self.worker = self._process("worker", batch_size=20).wait_ready()

    def end(self) -> None:
        self.worker.terminate()


@pytest.fixture(scope="module")
def shift(process: Processes, ledger: Ledger) -> Shift:
    return Shift(process)


@pytest.fixture(scope="module")
def old_version(
    environment: dict[str, str], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Processes]:
    program = (sys.executable, Path(__file__).with_name("old_format.py"))
    processes = Processes(tmp_path_factory.mktemp("old"), environment, program)
    yield processes
    processes.end()


def settled(ledger: Ledger) -> bool:
    """Whether the marks have passed all of events.v1."""
    consumer = Consumer({"bootstrap.servers": ledger.servers, "group.id": "ends", **QUIET})
    topic = ledger.topic(topics.EVENTS)
    places = [
        TopicPartition(topic, p) for p in consumer.list_topics(topic).topics[topic].partitions
    ]
    end = sum(consumer.get_watermark_offsets(place, timeout=10)[1] for place in places)
    consumer.close()
    return sum(ledger.counters().values()) == end


async def test_a_system_at_work_is_exact(
    shift: Shift, ledger: Ledger, headrace: Callable[..., Result], tmp_path: Path
) -> None:
    """Rows move while the log is read: each is met where it stood when it was read."""
    sending = threading.Thread(target=send_all_kinds, args=(ledger, 1500, 2))
    sending.start()
    found = headrace("verify")
    sending.join()
    await eventually(partial(settled, ledger))

    again = headrace("verify", "--json", str(tmp_path / "again.json"))

    assert (found.exit_code, again.exit_code) == (0, 0), found.output + again.output
    counts = json.loads((tmp_path / "again.json").read_bytes())["counts"]
    assert counts["users compared"] == USERS
    assert counts["partitions' counters compared"] == topics.EVENT_PARTITIONS
    assert min(counts["signals compared"], counts["item rows compared"]) > 0
    assert min(ledger.counters().values()) > 0, "a kind of record was never sent"


def test_one_byte_of_one_row_is_found_and_named(
    shift: Shift, ledger: Ledger, headrace: Callable[..., Result]
) -> None:
    """In Redis itself, behind everybody's back."""
    client = ledger.store.client
    (key,) = (key for key in keys(ledger.store) if b"\x02\x00\x00\x00u7" in key)
    (field,) = (f for f in client.hkeys(key) if not f.startswith((b"_ts", b"_applied")))
    row = client.hget(key, field)
    client.hset(key, field, row[:-60] + bytes([row[-60] ^ 1]) + row[-59:])

    found = headrace("verify", "--show-ids")
    hashed = headrace("verify")
    client.hset(key, field, row)

    assert (found.exit_code, hashed.exit_code) == (1, 1), found.output
    assert "1 differences" in found.output
    assert "u7" in found.output and "u7" not in hashed.output
    assert headrace("verify").exit_code == 0


async def test_workers_of_two_formats_go_on_side_by_side(
    shift: Shift, ledger: Ledger, headrace: Callable[..., Result], old_version: Processes
) -> None:
    """A rolling upgrade, there and back: each format has a state of its own, and misses nothing."""
    old = old_version("worker").wait_ready()
    send_all_kinds(ledger, 300, seed=4)
    shift.end()
    ledger.use_state(1, row_format=FORMAT - 1)
    await eventually(partial(settled, ledger))
    verified = old_version("verify")
    assert verified.popen.wait(60) == 0, verified.output
    assert old.terminate() == 0

    ledger.use_state(1)
    shift.begin()
    await eventually(partial(settled, ledger))

    again = headrace("verify")
    assert again.exit_code == 0, again.output


async def test_redis_lost_and_the_log_cut_is_rebuilt_from_the_archive(
    shift: Shift,
    ledger: Ledger,
    process: Processes,
    headrace: Callable[..., Result],
    environment: dict[str, str],
) -> None:
    """The worker refuses in one line that says what to do; then nothing has been lost."""
    await eventually(partial(settled, ledger))
    process("archiver", archive_roll_s=0.2).wait_ready()
    await eventually(lambda: archived(environment) == sum(ledger.counters().values()))
    counters = ledger.counters()
    cut(ledger)
    shift.end()
    drop(ledger.store)

    refused = process("worker")
    assert refused.popen.wait(60) == 2, refused.output
    planned = headrace("rebuild", "--dry-run")
    rebuilt = await asyncio.to_thread(headrace, "rebuild")
    assert (planned.exit_code, rebuilt.exit_code) == (0, 0), rebuilt.output
    verified = headrace("verify")

    assert "headrace rebuild" in refused.output
    assert "State 2" in planned.output
    assert verified.exit_code == 0, verified.output
    ledger.use_state(2)
    assert ledger.counters() == counters
    await goes_on(shift, ledger, headrace, seed=3)


async def test_partitions_are_added(
    shift: Shift, ledger: Ledger, process: Processes, headrace: Callable[..., Result]
) -> None:
    """Users move to other partitions; the worker says what to do, and histories move along."""
    shift.end()
    admin = AdminClient({"bootstrap.servers": ledger.servers, **QUIET})
    (added,) = admin.create_partitions([NewPartitions(ledger.topic(topics.EVENTS), 12)]).values()
    added.result()

    refused = process("worker")
    assert refused.popen.wait(60) == 2, refused.output
    rebuilt = await asyncio.to_thread(headrace, "rebuild")

    assert "headrace rebuild" in refused.output
    assert rebuilt.exit_code == 0, rebuilt.output
    ledger.use_state(3)
    await goes_on(shift, ledger, headrace, seed=5)


async def test_a_living_worker_ends_when_another_state_goes_live_and_an_old_one_is_dropped(
    shift: Shift, ledger: Ledger, headrace: Callable[..., Result]
) -> None:
    """Its supervisor starts it again, on the new one."""
    rebuilt = await asyncio.to_thread(headrace, "rebuild")
    assert rebuilt.exit_code == 0, rebuilt.output
    await eventually(lambda: shift.worker.popen.poll() is not None)
    old = list(keys(ledger.store))

    refused, dropped = headrace("rebuild", "--drop", "4"), headrace("rebuild", "--drop", "3")

    assert shift.worker.popen.returncode == 0
    assert (refused.exit_code, dropped.exit_code) == (2, 0), refused.output + dropped.output
    assert len(old) > USERS and list(keys(ledger.store)) == []
    assert headrace("verify").exit_code == 0


async def goes_on(shift: Shift, ledger: Ledger, headrace: Callable[..., Result], seed: int) -> None:
    """A worker takes up the new state where the rebuild has left it."""
    shift.begin()
    send_all_kinds(ledger, 300, seed=seed)
    await eventually(partial(settled, ledger))
    verified = headrace("verify")
    assert verified.exit_code == 0, verified.output


def archived(environment: dict[str, str]) -> int:
    """How many events the archive holds."""
    name = with_prefix(environment["HEADRACE_PREFIX"], topics.EVENTS)
    return record_count(Path(environment["HEADRACE_DATA_DIR"]) / "archive" / name)


def cut(ledger: Ledger) -> None:
    """Have Kafka delete all of events.v1, as retention does one day."""
    admin = AdminClient({"bootstrap.servers": ledger.servers, **QUIET})
    topic = ledger.topic(topics.EVENTS)
    ends = [TopicPartition(topic, p, OFFSET_END) for p in range(topics.EVENT_PARTITIONS)]
    for deleted in admin.delete_records(ends).values():
        deleted.result()
