"""What the demo needs before the doors open: a history, its rows, a trained and deployed model."""

import asyncio
import json
import os
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from confluent_kafka import Consumer, TopicPartition

from services.embedded.process import Child, Guard, ending, last_line
from services.errors import CommandFailed
from services.kafka.publishing import CONNECT_TIMEOUT_S, Publisher
from services.logs.catalogue_log import ItemReader
from services.logs.eventlog import EventReader
from services.logs.pacing import Pacer
from services.logs.replay_position import ReplayPosition
from services.logs.replaying import FullSpeed, Selection, replay
from services.logs.rows import open_rows
from services.settings import WorkerSettings
from services.simulator.catalogue import DAY_MS
from services.simulator.history import EVENTS_FILE, ITEMS_FILE, write_history
from services.simulator.world import World
from stream import topics
from stream.records import BACKFILL

Say = Callable[[str], None]
CAUGHT_UP_WITHIN_S = 600.0


@dataclass(frozen=True)
class Shop:
    """The simulated shop of a data directory; kept in `FILE`, so that a second run goes on."""

    FILE = "shop.json"

    seed: int
    users: int
    items: int
    start_ms: int
    end_ms: int

    def world(self) -> World:
        """Its world: the same for the same shop."""
        return World(self.seed, self.items, self.start_ms, self.end_ms)


def shop_in(directory: Path, *, seed: int, users: int, items: int, days: int) -> Shop:
    """The shop that lies in *directory*, made now if there is none. Its history ends now."""
    path = directory / Shop.FILE
    if path.exists():
        return Shop(**json.loads(path.read_bytes()))
    end_ms = int(time.time() * 1000) - 60_000
    shop = Shop(seed, users, items, end_ms - days * DAY_MS, end_ms)
    write_history(shop.world(), users, directory)
    temporary = path.with_suffix(".tmp")
    temporary.write_text(json.dumps(asdict(shop)))
    temporary.replace(path)  # last: a shop without its history is none
    return shop


def publish_shop(settings: WorkerSettings, directory: Path, say: Say) -> None:
    """Publish catalogue and history, unless this cluster has them, and wait for the rows."""
    done = mark(settings, directory, "published")
    if done.exists():
        say("done by an earlier run")
        return
    events = topics.with_prefix(settings.prefix, topics.EVENTS)
    with Publisher(settings.kafka, client_id="headrace-demo") as publisher:
        _publish_items(settings, directory / ITEMS_FILE, publisher)
        position = ReplayPosition()
        sender = FullSpeed(publisher, events, position, (BACKFILL,))
        reader = EventReader(max_ahead_s=settings.max_ahead_s)
        with open_rows(directory / EVENTS_FILE, "jsonl", ()) as log:
            tally = replay(log.rows, reader, Selection(), Pacer(), position, sender)
    _wait_for_worker(settings, events, tally.published, say)
    done.touch()
    say(f"done: {tally.published:,} events")


def mark(settings: WorkerSettings, directory: Path, step: str) -> Path:
    """The file that says that *step* was done on this Kafka cluster: another one knows nothing."""
    with Publisher(settings.kafka, client_id="headrace-demo") as publisher:
        events = topics.with_prefix(settings.prefix, topics.EVENTS)
        return directory / f"{step}-{publisher.cluster_id(events)}"


def _publish_items(settings: WorkerSettings, path: Path, publisher: Publisher) -> None:
    reader = ItemReader()
    topic = topics.with_prefix(settings.prefix, topics.ITEMS)
    with open_rows(path, "jsonl", ()) as log:
        for row in log.rows:
            item, value = reader.read(row)
            publisher.send(topic, item.item_id.encode(), value)


def _wait_for_worker(settings: WorkerSettings, topic: str, events: int, say: Say) -> None:
    group = topics.with_prefix(settings.prefix, settings.worker_group)
    consumer = Consumer({**settings.kafka.config(), "group.id": group})
    try:
        deadline = time.monotonic() + CAUGHT_UP_WITHIN_S
        while (behind := lag(consumer, topic)) > 0:
            say(f"{max(0, events - behind):,} of {events:,} events")
            if time.monotonic() > deadline:
                raise CommandFailed(f"the worker is still {behind:,} events behind. See its log.")
            time.sleep(0.5)
    finally:
        consumer.close()


def lag(consumer: Consumer, topic: str) -> int:
    """Records of *topic* that the consumer's group, which it does not join, has not committed."""
    partitions = consumer.list_topics(topic, timeout=CONNECT_TIMEOUT_S).topics[topic].partitions
    asked = [TopicPartition(topic, partition) for partition in partitions]
    behind = 0
    for found in consumer.committed(asked, timeout=CONNECT_TIMEOUT_S):
        low, high = consumer.get_watermark_offsets(
            TopicPartition(topic, found.partition), timeout=CONNECT_TIMEOUT_S
        )
        behind += high - max(low, found.offset)
    return behind


async def run_command(
    arguments: Sequence[str], data_dir: Path, environment: dict[str, str], say: Say
) -> None:
    """
    Run ``headrace *arguments`` as a process of its own that ends with us.

    Raises:
        CommandFailed: If it fails, with the last thing that it said.
    """
    log = data_dir / "logs" / f"demo-{arguments[0]}.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    log.unlink(missing_ok=True)
    directory = os.open(data_dir, os.O_RDONLY)
    guard = Guard(directory)
    command = (str(Path(sys.executable).with_name("headrace")), *arguments)
    child = await Child.start(command, {**os.environ, **environment}, log, guard)
    try:
        started_s = time.monotonic()
        ended = asyncio.create_task(child.wait())
        while not ended.done():
            await asyncio.wait({ended}, timeout=0.5)
            say(f"{time.monotonic() - started_s:.0f} s  {last_line(log)[:60]}")
        if ended.result() != 0:
            raise CommandFailed(
                f"`headrace {arguments[0]}` failed: {ending(ended.result(), log)}. See {log}."
            )
    finally:
        await child.end(within_s=5)
        guard.close()
        os.close(directory)
