"""Recorded traffic through the pure pipeline: a change in behaviour shows as a diff to review."""

import asyncio
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pytest

from stream import topics
from stream.catalogue import Catalogue
from stream.items import parse_item
from stream.keys import item_key, partition_of
from stream.pipeline import Rules
from stream.ranking import Ranked, RankerInput
from stream.recommend import recommend
from stream.records import Outgoing, Record
from stream.signals import from_bytes
from tests.fakes import FakeBroker, FakeStore, a_pipeline

HERE = Path(__file__).parent
BATCH = 7


class ArithmeticRanker:
    """Ranks by a fixed arithmetic of the two newest items: the same on every machine."""

    def __init__(self, item_ids: Sequence[str]) -> None:
        self._keys = np.array([item_key(one) for one in item_ids], np.int64)

    async def rank(
        self, inputs: Sequence[RankerInput], *, version: str, deadline_s: float
    ) -> Ranked:
        scores = np.stack([self._scores(one.item_keys) for one in inputs])
        order = np.argsort(-scores, axis=1, kind="stable")
        best = np.take_along_axis(scores, order, axis=1).astype(np.float32)
        return Ranked(self._keys[order], best)

    def _scores(self, history: np.ndarray) -> np.ndarray:
        seed = sum((age + 1) * int(key) for age, key in enumerate(history[::-1][:2].tolist()))
        return ((self._keys.astype(object) * 31 + seed) % 1000).astype(np.int64) / 1000


def records() -> Iterator[Record]:
    """The traffic as Kafka would hand it over: on the partition of its key."""
    offsets: Counter[int] = Counter()
    for line in (HERE / "traffic.jsonl").read_bytes().splitlines():
        recorded = orjson.loads(line)
        key = recorded["key"] and recorded["key"].encode()
        partition = partition_of(key or b"", topics.EVENT_PARTITIONS)
        value = recorded["value"] and recorded["value"].encode()
        yield Record(partition, offsets[partition], 2_000_000_000_000, key, value)
        offsets[partition] += 1


def replay() -> Iterator[str]:
    items = [parse_item(line) for line in (HERE / "items.jsonl").read_bytes().splitlines()]
    catalogue = Catalogue()
    for item in items:
        catalogue.put(item)
    broker, store = FakeBroker(), FakeStore()
    pipeline = a_pipeline(
        store=store,
        publish=broker,
        catalogue=catalogue,
        ranker=ArithmeticRanker([item.item_id for item in items]),
        rules=Rules(slate_size=4),
    )
    traffic = list(records())
    for start in range(0, len(traffic), BATCH):
        asyncio.run(recommend(pipeline, traffic[start : start + BATCH]))
    for one in broker.published:
        headers = [[name, value and value.decode()] for name, value in one.headers]
        value = _readable(one)
        key = one.key and one.key.decode()
        yield orjson.dumps([one.topic, one.partition, key, headers, value]).decode()
    for partition, mark in sorted(store.marks.items()):
        yield orjson.dumps(["mark", partition, orjson.loads(mark)]).decode()


def _readable(one: Outgoing) -> Any:
    if one.value is not None and one.topic == topics.SIGNALS:
        return from_bytes(one.value).tolist()
    return one.value and one.value.decode()


def test_recorded_traffic_gives_the_recorded_answers(request: pytest.FixtureRequest) -> None:
    """Slates, letters, re-keyed records and counters, byte for byte. --update-golden rewrites."""
    expected = HERE / "traffic.expected.jsonl"
    actual = "\n".join(replay()) + "\n"
    if request.config.getoption("--update-golden"):
        expected.write_text(actual)

    assert actual == expected.read_text()
