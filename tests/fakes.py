"""Stand-ins that keep state, for tests of the pure pipeline. Real servers: tests/integration."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import numpy as np

from stream.catalogue import Catalogue
from stream.deployments import Deployment
from stream.keys import item_key
from stream.pipeline import Pipeline, Rules
from stream.popularity import LiveCounts
from stream.ranking import Ranked, RankerInput, RankerUnavailable
from stream.records import Outgoing
from tests.builders import an_item

NOW = datetime(2026, 1, 1, tzinfo=UTC)


class Crash(Exception):
    """The process dies here."""


class FakeStore:
    """Rows and marks in memory; dies before or after a write when told to."""

    def __init__(self) -> None:
        self.rows: dict[str, bytes] = {}
        self.marks: dict[int, bytes] = {}
        self.die_at: str | None = None

    async def read(
        self, user_ids: Sequence[str], partitions: Sequence[int]
    ) -> tuple[list[bytes | None], list[bytes | None]]:
        return [self.rows.get(u) for u in user_ids], [self.marks.get(p) for p in partitions]

    async def write_rows(self, rows: Mapping[str, bytes]) -> None:
        self._maybe_die("before rows")
        self.rows.update(rows)
        self._maybe_die("after rows")

    async def write_marks(self, marks: Mapping[int, bytes]) -> None:
        self._maybe_die("before marks")
        self.marks.update(marks)
        self._maybe_die("after marks")

    def _maybe_die(self, here: str) -> None:
        if self.die_at == here:
            raise Crash(here)


class FakeBroker:
    """Keeps what is published."""

    def __init__(self) -> None:
        self.published: list[Outgoing] = []

    async def __call__(self, records: Sequence[Outgoing]) -> None:
        self.published.extend(records)

    def on(self, topic: str) -> list[Outgoing]:
        """What was published to *topic*, in order."""
        return [one for one in self.published if one.topic == topic]


class FakeRanker:
    """Ranks a fixed list of items for everyone, or does not answer."""

    def __init__(self, *item_ids: str) -> None:
        self.item_ids = item_ids
        self.down = False
        self.asked: list[RankerInput] = []

    async def rank(
        self, inputs: Sequence[RankerInput], *, version: str, deadline_s: float
    ) -> Ranked:
        if self.down:
            raise RankerUnavailable("down: test")
        self.asked.extend(inputs)
        keys = np.array([[item_key(i) for i in self.item_ids] + [0]] * len(inputs), np.int64)
        scores = np.linspace(1, 0, keys.shape[1], dtype=np.float32)
        return Ranked(keys, np.tile(scores, (len(inputs), 1)))


class FakeObserver:
    """Counts events and slates."""

    def __init__(self) -> None:
        self.events: dict[str, int] = {}
        self.slates: dict[str, int] = {}
        self.unavailable: list[str] = []

    def count_events(self, outcome: str, count: int = 1) -> None:
        self.events[outcome] = self.events.get(outcome, 0) + count

    def count_slates(self, strategy: str, count: int = 1) -> None:
        self.slates[strategy] = self.slates.get(strategy, 0) + count

    def count_ranker_unavailable(self, reason: str) -> None:
        self.unavailable.append(reason)

    def observe_stage(self, stage: str, seconds: float) -> None: ...
    def observe_batch(self, events: int) -> None: ...
    def observe_event_to_result(self, seconds: float) -> None: ...


def a_pipeline(**parts: Any) -> Pipeline:
    """A pipeline of fakes that knows the items hat, shoes, scarf and coat."""
    catalogue = Catalogue()
    for item_id in ("hat", "shoes", "scarf", "coat"):
        catalogue.put(an_item(item_id))
    deployment = Deployment(model="ranker", version="1", deployed_at=NOW, popular=("coat", "hat"))
    defaults: dict[str, Any] = {
        "store": FakeStore(),
        "ranker": FakeRanker("shoes", "scarf", "hat", "coat"),
        "publish": FakeBroker(),
        "catalogue": catalogue,
        "deployment": lambda: deployment,
        "live": LiveCounts(),
        "rules": Rules(slate_size=3),
        "observe": FakeObserver(),
        "now": lambda: NOW,
    }
    return Pipeline(**{**defaults, **parts})
