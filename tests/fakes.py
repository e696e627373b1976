"""Stand-ins that keep state, for tests of the pure pipeline. Real servers: tests/integration."""

from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import UTC, datetime
from functools import partial
from typing import Any

import numpy as np

from stream import topics
from stream.catalogue import Catalogue
from stream.deployments import Deployment
from stream.keys import item_key
from stream.marks import Mark, OwnMarks
from stream.pipeline import Pipeline, Rules
from stream.ranking import Answer, Ranked, RankerInput, RankerUnavailable
from stream.records import Outgoing, Record
from stream.state import Dependencies, Replacement, StateMoved, nearest_dependencies
from tests.builders import an_item

NOW = datetime(2026, 1, 1, tzinfo=UTC)


class Crash(Exception):
    """The process dies here."""


class Interruptible:
    """Dies before or after an effect when told to, or does something else there, once."""

    def __init__(self) -> None:
        self.die_at: str | None = None
        self.meanwhile: tuple[str, Callable[[], Awaitable[None]]] | None = None

    async def reach(self, here: str) -> None:
        if self.die_at == here:
            raise Crash(here)
        if self.meanwhile is not None and self.meanwhile[0] == here:
            do, self.meanwhile = self.meanwhile[1], None
            await do()


class FakeStore(Interruptible):
    """
    Rows and marks in memory. Effects: rows, marks.

    Args:
        beside: A store that this one loses its newest writes with.
    """

    def __init__(self, beside: "FakeStore | None" = None) -> None:
        super().__init__()
        self.rows: dict[str, bytes] = {}
        self.marks: dict[int, bytes] = {}
        self.applied: dict[Any, str] = {}  # by user, and by partition
        self._undo: list[Callable[[], None]] = beside._undo if beside else []

    def positions(self) -> dict[int, int]:
        """Partition to the offset that its mark names."""
        return {p: Mark.from_bytes(raw).next_offset for p, raw in self.marks.items()}

    def lose(self, writes: int) -> None:
        """Come back as it was so many *writes* ago, or as it was at first."""
        for _ in range(min(writes, len(self._undo))):
            self._undo.pop()()

    async def read(
        self, user_ids: Sequence[str], partitions: Sequence[int]
    ) -> tuple[list[bytes | None], list[bytes | None]]:
        return [self.rows.get(u) for u in user_ids], [self.marks.get(p) for p in partitions]

    async def write_rows(
        self,
        rows: Mapping[str, Replacement],
        expected_marks: Mapping[int, str],
        after: Dependencies = (),
    ) -> Dependencies:
        await self.reach("before rows")
        written = self._replace(self.rows, rows, expected_marks, after)
        await self.reach("after rows")
        return written

    async def write_marks(
        self, marks: Mapping[int, Replacement], after: Dependencies
    ) -> Dependencies:
        await self.reach("before marks")
        written = self._replace(self.marks, marks, {}, after)
        await self.reach("after marks")
        return written

    def _replace(
        self,
        stored: dict[Any, bytes],
        new: Mapping[Any, Replacement],
        expected: Mapping[Any, str],
        after: Dependencies,
    ) -> Dependencies:
        expected = {**expected, **{key: one.expected for key, one in new.items()}}
        if any(self.applied.get(key, "") != applied for key, applied in expected.items()):
            raise StateMoved("test")
        for (store, key), applied in after:
            if store.applied.get(key, "") != applied:
                raise StateMoved("what this comes after is gone")
        if not new:
            return after
        before = [(stored, {**stored}), (self.applied, {**self.applied})]
        self._undo.append(partial(_restore, before))
        stored.update({key: one.value for key, one in new.items()})
        self.applied.update({key: one.applied for key, one in new.items()})
        return nearest_dependencies(new, lambda key: (self, key), after)


def unsettled(records: Sequence[Record], positions: Mapping[int, int]) -> list[Record]:
    """Those of *records* that do not lie before their partition's position."""
    return [record for record in records if record.offset >= positions.get(record.partition, 0)]


def _restore(contents: Sequence[tuple[dict[Any, Any], dict[Any, Any]]]) -> None:
    """Put back what was in each of some dicts."""
    for where, what in contents:
        where.clear()
        where.update(what)


class FakeItems:
    """Items' rows in memory, by item key."""

    def __init__(self, rows: Mapping[int, bytes] | None = None) -> None:
        self.rows = rows or {}

    async def __call__(self, item_keys: Sequence[int]) -> list[bytes | None]:
        return [self.rows.get(key) for key in item_keys]


class FakeBroker(Interruptible):
    """Keeps what is published. Effects: signals, slates (and all that goes with them)."""

    def __init__(self) -> None:
        super().__init__()
        self.published: list[Outgoing] = []

    async def __call__(self, records: Sequence[Outgoing]) -> None:
        what = "signals" if all(one.topic == topics.SIGNALS for one in records) else "slates"
        await self.reach(f"before {what}")
        self.published.extend(records)
        await self.reach(f"after {what}")

    def on(self, topic: str) -> list[Outgoing]:
        """What was published to *topic*, in order."""
        return [one for one in self.published if one.topic == topic]


class FakeRanker:
    """Ranks a fixed list of items for everyone, or does not answer; so may a version alone."""

    def __init__(self, *item_ids: str) -> None:
        self.item_ids = item_ids
        self.down = False
        self.broken: set[str] = set()  # versions
        self.asked: list[RankerInput] = []

    async def rank(
        self, inputs: Sequence[RankerInput], *, version: str, deadline_s: float
    ) -> Ranked:
        if self.down or version in self.broken:
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
        self.degraded = 0
        self.slate_ages_s: list[float] = []

    def count_events(self, outcome: str, count: int = 1) -> None:
        self.events[outcome] = self.events.get(outcome, 0) + count

    def count_slates(self, strategy: str, count: int) -> None:
        self.slates[strategy] = self.slates.get(strategy, 0) + count

    def count_degraded(self, slates: int) -> None:
        self.degraded += slates

    def observe_slate_age(self, seconds: float) -> None:
        self.slate_ages_s.append(seconds)

    def observe_stage(self, stage: str, seconds: float) -> None: ...
    def observe_batch(self, events: int) -> None: ...
    def observe_event_to_result(self, seconds: float) -> None: ...


class FakeVersions:
    """Counts what became of each version's requests, and its slates."""

    def __init__(self) -> None:
        self.answers: Counter[str] = Counter()
        self.failures: Counter[tuple[str, str]] = Counter()
        self.fallbacks: Counter[str] = Counter()
        self.slates: Counter[str] = Counter()

    def answered(self, version: str, seconds: float) -> None:
        self.answers[version] += 1

    def failed(self, version: str, kind: str) -> None:
        self.failures[version, kind] += 1

    def fell_back(self, version: str) -> None:
        self.fallbacks[version] += 1

    def count_slates(self, version: str, count: int) -> None:
        self.slates[version] += count


class FakeShadow:
    """Keeps what it was told to compare."""

    def __init__(self) -> None:
        self.answers: list[Answer] = []

    def compare(self, answers: Sequence[Answer]) -> None:
        self.answers.extend(answers)


def a_deployment(**parts: Any) -> Deployment:
    """The state of a model whose version 1 serves."""
    defaults = {"model": "ranker", "revision": 1, "changed_at": NOW, "reason": "a test"}
    return Deployment(**{**defaults, "version": "1", "popular": ("coat", "hat"), **parts})


def a_pipeline(**parts: Any) -> Pipeline:
    """A pipeline of fakes that knows the items hat, shoes, scarf and coat and owns all there is."""
    catalogue = Catalogue()
    for item_id in ("hat", "shoes", "scarf", "coat"):
        catalogue.put(an_item(item_id))
    deployment = a_deployment()
    store = parts.get("store") or FakeStore()
    marks = OwnMarks()
    marks.own({p: store.marks.get(p) for p in range(topics.EVENT_PARTITIONS)})
    defaults: dict[str, Any] = {
        "store": store,
        "marks": marks,
        "ranker": FakeRanker("shoes", "scarf", "hat", "coat"),
        "publish": FakeBroker(),
        "catalogue": catalogue,
        "deployment": lambda: deployment,
        "versions": FakeVersions(),
        "shadow": FakeShadow(),
        "items": FakeItems(),
        "trending": list,
        "rules": Rules(slate_size=3),
        "observe": FakeObserver(),
        "now": lambda: NOW,
    }
    return Pipeline(**{**defaults, **parts})
