"""
What training sees at a moment is what serving saw: the archive's fold against traces of a live run.

``make parity`` compares 10,000 moments; without it, ``HEADRACE_TEST_MOMENTS`` are 500.
"""

import asyncio
import os
import random
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pytest

from services.archive.reader import record_count
from services.models.deployment import deploy
from services.models.serving import Serving
from services.simulator.catalogue import DAY_MS
from services.simulator.history import past_events
from services.simulator.world import World
from services.training.dataset import write_dataset
from services.training.sources import open_source
from stream import topics
from stream.ranking import RankerInput
from stream.trace import Trace
from tests.builders import T0_MS
from tests.integration.ledger import Ledger, read_topic
from tests.integration.support import Processes, Servers, eventually
from tests.tiny_model import build_tiny_version

MOMENTS = int(os.environ.get("HEADRACE_TEST_MOMENTS", "500"))
EVENTS = MOMENTS * 5 // 4  # two of one user in a micro-batch give one slate
PATIENCE_S = 60 + EVENTS / 50
PAGES, DEVICES = ("home", "category", "search", None), ("mobile", "desktop", None)


def traffic(world: World, users: int) -> Iterator[tuple[bytes | None, bytes]]:
    """Key and value of `EVENTS` records: a simulated shop, disturbed as real ones are."""
    rng = random.Random(5)
    delayed: list[tuple[bytes | None, bytes]] = []
    sent: list[tuple[bytes | None, bytes]] = []
    for raw, _ in zip(past_events(world, users), range(EVENTS), strict=False):
        event = orjson.loads(raw)
        context = {"page": rng.choice(PAGES), "device": rng.choice(DEVICES), "country": "US"}
        event["context"] = {name: one for name, one in context.items() if one}
        record = event["user_id"].encode(), orjson.dumps(event)
        chance = rng.random()
        if chance < 0.04:  # the phone was offline
            delayed.append(record)
            continue
        if chance < 0.07:  # the producer was not sure whether it had arrived
            yield record
        if chance > 0.99:
            yield b"somebody-else", orjson.dumps({**event, "event_id": f"wrong {chance}"})
        if chance > 0.98:
            yield record[0], b'{"event_type": "no event"}'
        yield record
        sent.append(record)
        if delayed and rng.random() < 0.05:
            yield delayed.pop(rng.randrange(len(delayed)))
        if rng.random() < 0.02:  # a queue is read again
            yield rng.choice(sent)


@pytest.mark.timeout(60 + 10 * PATIENCE_S)
async def test_training_sees_what_serving_saw(
    stack: Servers, environment: dict[str, str], process: Processes, tmp_path: Path
) -> None:
    """A difference here is a model that learns from one thing and is asked about another."""
    world = World(3, 300, T0_MS, T0_MS + 90 * DAY_MS)
    ledger = Ledger(environment)
    items = [one.item_id for one in world.items]
    for item_id in items:
        value = orjson.dumps({"item_id": item_id, "title": item_id})
        ledger.producer.produce(ledger.topic(topics.ITEMS), value, key=item_id.encode())
    version = build_tiny_version(tmp_path / "version", items)
    place = serving(stack, ledger.prefix)
    await asyncio.to_thread(deploy, version, place, say=lambda line: None)
    process("archiver", archive_roll_s=0.5).wait_ready()
    process("worker", trace_share=1, batch_size=2).wait_ready()

    records = 0
    for key, value in traffic(world, users=max(30, EVENTS // 60)):
        ledger.raw(key, value)
        records += 1
    ledger.flush()
    archived = tmp_path / "data" / "archive" / ledger.topic(topics.EVENTS)
    await eventually(lambda: sum(ledger.counters().values()) > records, timeout_s=PATIENCE_S)
    counted = await eventually(
        lambda: same(sum(ledger.counters().values()), record_count(archived)), timeout_s=PATIENCE_S
    )
    dataset = write_dataset(open_source(archived, {}), tmp_path / "set", shard_events=EVENTS // 4)
    traced = [
        Trace.model_validate_json(m.value())
        for m in read_topic(ledger.servers, ledger.topic(topics.TRACE))
    ]

    differences: list[str] = []
    compared = skipped = longest = 0
    for trace in traced:
        trained = dataset.history(trace.user_id, trace.state.offset, 128)
        if trained is None:
            skipped += 1
            continue
        compared += 1
        longest = max(longest, len(trace.item_keys))
        differences += differing(trace.ranker_input(), trained)
    counters = ledger.counters()
    sys.stderr.write(
        f"\n{compared:,} moments compared of {len(traced):,} traced: {len(differences)} differ. "
        f"{skipped} had no example. Histories: up to {longest}. {counted:,} records: {counters}.\n"
    )
    assert differences == []
    assert compared >= MOMENTS and skipped < 0.1 * compared
    assert all(
        dataset.outcomes.get(name, 0) == counters[name] for name in ("folded", "duplicate", "late")
    )
    assert counters["duplicate"] and counters["rekeyed"] and counters["dead_lettered"]


def serving(stack: Servers, prefix: str) -> Serving:
    return Serving(
        repository=stack.models_dir / "ranker",
        triton_address=stack.triton,
        kafka_servers=stack.kafka,
        prefix=prefix,
    )


def same(one: int, other: int) -> int | None:
    return one if one == other else None


def differing(served: RankerInput, trained: RankerInput) -> list[str]:
    """The names of the arrays that differ in type, length or any value."""
    pairs: list[tuple[str, Any, Any]] = [
        (name, getattr(served, name), getattr(trained, name)) for name in served.__slots__
    ]
    return [n for n, one, two in pairs if one.dtype != two.dtype or not np.array_equal(one, two)]
