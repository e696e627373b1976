"""
From a live run to what learns from it. What training sees at a moment is what serving saw: the fold
of the archive against traces. And the trainer makes a version of it by itself.

``make parity`` compares 10,000 moments; without it, ``HEADRACE_TEST_MOMENTS`` are 500.
"""

import asyncio
import os
import random
import sys
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pytest

from services.archive.reader import record_count
from services.models.deployment import deploy
from services.models.serving import Serving
from services.models.versions import read_manifest
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
from tests.integration.support import (
    Processes,
    Servers,
    eventually,
    free_port,
    fresh_environment,
    serving_of,
)
from tests.tiny_model import build_tiny_version

MOMENTS = int(os.environ.get("HEADRACE_TEST_MOMENTS", "500"))
EVENTS = MOMENTS * 5 // 4  # two of one user in a micro-batch give one slate
USERS = max(30, EVENTS // 60)
PATIENCE_S = 60 + EVENTS / 25
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


@dataclass
class Lived:
    """What a live run has left: the archive, the traces, a serving version and its servers."""

    ledger: Ledger
    archive: Path
    traced: list[Trace]
    serving: Serving
    version: str
    process: Processes


@pytest.fixture(scope="module")
def lived(stack: Servers, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lived]:
    """A shop that was open for a while, with a worker that traces every slate and an archiver."""
    directory = tmp_path_factory.mktemp("lived")
    with fresh_environment(stack, directory / "data") as environment:
        ledger = Ledger(environment)
        processes = Processes(directory, environment)
        serving = serving_of(stack, ledger.prefix)
        world = World(3, 300, T0_MS, T0_MS + 90 * DAY_MS)
        try:
            version = _open(ledger, [one.item_id for one in world.items], serving, directory)
            processes("archiver", archive_roll_s=0.5).wait_ready()
            processes("worker", trace_share=1, batch_size=2).wait_ready()
            archive = directory / "data" / "archive" / ledger.topic(topics.EVENTS)
            records = sum(ledger.raw(*record) is None for record in traffic(world, USERS))
            ledger.flush()
            asyncio.run(eventually(lambda: settled(ledger, archive, records), timeout_s=PATIENCE_S))
            messages = read_topic(ledger.servers, ledger.topic(topics.TRACE))
            traced = [Trace.from_json(message.value() or b"") for message in messages]
            yield Lived(ledger, archive, traced, serving, version, processes)
        finally:
            processes.end()


def _open(ledger: Ledger, items: list[str], serving: Serving, directory: Path) -> str:
    for item_id in items:
        value = orjson.dumps({"item_id": item_id, "title": item_id})
        ledger.producer.produce(ledger.topic(topics.ITEMS), value, key=item_id.encode())
    ledger.flush()
    version = build_tiny_version(directory / "version", items)
    return deploy(version, serving, say=lambda line: None)


def settled(ledger: Ledger, archive: Path, records: int) -> bool:
    """Whether all is settled and archived; what had a wrong key is there once more."""
    counted = sum(ledger.counters().values())
    return counted > records and counted == record_count(archive)


@pytest.mark.timeout(60 + 4 * PATIENCE_S)
def test_training_sees_what_serving_saw(lived: Lived, tmp_path: Path) -> None:
    """A difference here is a model that learns from one thing and is asked about another."""
    dataset = write_dataset(open_source(lived.archive, {}), tmp_path, shard_events=EVENTS // 4)

    differences: list[str] = []
    compared = skipped = longest = 0
    for trace in lived.traced:
        trained = dataset.history(trace.user_id, trace.state.offset, 128)
        if trained is None:
            skipped += 1
            continue
        compared += 1
        longest = max(longest, len(trace.item_keys))
        differences += differing(trace.ranker_input(), trained)
    counters = lived.ledger.counters()
    sys.stderr.write(
        f"\n{compared:,} moments compared of {len(lived.traced):,} traced: {len(differences)} "
        f"differ. {skipped} had no example. Histories: up to {longest}. Records: {counters}.\n"
    )
    assert differences == []
    assert compared >= MOMENTS and skipped < 0.1 * compared
    for outcome in ("folded", "duplicate", "late"):
        assert dataset.outcomes.get(outcome, 0) == counters[outcome]
    assert counters["duplicate"] and counters["rekeyed"] and counters["dead_lettered"]


@pytest.mark.timeout(300)
async def test_the_trainer_learns_what_is_new_and_deploys_it(lived: Lived) -> None:
    """Nobody types anything: by morning what the archive has is in a version that serves."""
    port = free_port()
    # The events are of 2016, and their history is read from today backwards.
    settings = {"trainer_every_s": 3600, "trainer_history_days": 36_500, "metrics_port": port}
    trainer = lived.process("trainer", **settings).wait_ready()

    def counted() -> bool:
        assert trainer.popen.poll() is None, trainer.output
        page = urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics").read().decode()
        return 'headrace_trainer_runs_total{outcome="deployed"} 1.0' in page

    try:
        await eventually(counted, timeout_s=200, every_s=0.5)
    except AssertionError as error:
        raise AssertionError(trainer.output) from error
    state = lived.serving.state()
    assert state is not None and state.version != lived.version
    manifest = read_manifest(lived.serving.repository / state.version)
    assert manifest.metrics["targets"] > 0 and "before" in manifest.metrics
    assert trainer.terminate() == 0


def differing(served: RankerInput, trained: RankerInput) -> list[str]:
    """The names of the arrays that differ in type, length or any value."""
    pairs: list[tuple[str, Any, Any]] = [
        (name, getattr(served, name), getattr(trained, name)) for name in served.__slots__
    ]
    return [n for n, one, two in pairs if one.dtype != two.dtype or not np.array_equal(one, two)]
