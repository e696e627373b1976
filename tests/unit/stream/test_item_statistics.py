"""The owner of items on fakes: what it writes, and that no death and no zombie changes it."""

import asyncio
import itertools
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from stream import item_statistics
from stream.history import Outcome
from stream.item_row import ItemRow
from stream.item_statistics import ItemStatistics
from stream.keys import item_key
from stream.marks import Mark, OwnMarks
from stream.records import Record
from stream.signals import DELTA, Kind, signal_records
from stream.state import StateMoved
from stream.trending import Trending
from tests.builders import T0_MS
from tests.fakes import Crash, FakeStore, unsettled

PARTITIONS = 2
NAMES = ("hat", "shoes", "scarf")


@pytest.fixture(scope="module", autouse=True)
def _rows_are_written_in_parts() -> Iterator[None]:
    """One at a time, so that a death may come between any two."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(item_statistics, "WRITTEN_AT_ONCE", 1)
        yield


class Shop:
    """The feature store of a shop, and whoever owns its items now."""

    def __init__(self) -> None:
        self.items = FakeStore()
        self.trending = FakeStore(beside=self.items)

    def owner(self, in_memory: int = 100) -> ItemStatistics:
        """A worker that has just been assigned all partitions."""
        owner = ItemStatistics(
            self.items,
            _Beside(self.trending, self.items),
            OwnMarks(),
            category_of={item_key("hat"): "hats"}.get,
            in_memory=in_memory,
        )
        asyncio.run(owner.take_over(range(PARTITIONS)))
        return owner

    def rows(self) -> dict[int, ItemRow]:
        return {key: ItemRow.from_bytes(raw) for key, raw in self.items.rows.items()}

    def lists(self) -> Trending:
        return Trending.merged(map(Trending.from_bytes, self.trending.rows.values()))


class _Beside:
    """Another view of one store, under the marks of the first."""

    def __init__(self, own: FakeStore, marks: FakeStore) -> None:
        self._own, self._marks = own, marks

    async def read(self, keys: Any, partitions: Any) -> Any:
        rows, _ = await self._own.read(keys, [])
        return rows, [self._marks.marks.get(p) for p in partitions]

    async def write_rows(self, rows: Any, expected_marks: Any, after: Any) -> Any:
        self._marks._replace({}, {}, expected_marks, ())
        return await self._own.write_rows(rows, {}, after)

    async def write_marks(self, marks: Any, after: Any) -> Any:
        raise NotImplementedError


def a_log(events: Sequence[tuple[str, str]], records: int = 1) -> list[Record]:
    """Clicks on items that follow another, as *records* records a partition of signals."""
    deltas = [
        [
            (item_key(item), 0, at, Kind.COUNT, 3, 0, 1.0, T0_MS + at),
            (item_key(item), 0, at, Kind.CO_VISITED, 0, item_key(other), 1.0, T0_MS + at),
        ]
        for at, (item, other) in enumerate(events)
    ]
    log, offsets = [], dict.fromkeys(range(PARTITIONS), 0)
    size = max(1, len(deltas) // records)
    for first in range(0, len(deltas), size):
        said = [delta for one in deltas[first : first + size] for delta in one]
        for sent in signal_records(np.array(said, DELTA).tobytes(), PARTITIONS):
            assert sent.partition is not None
            offset = offsets[sent.partition]
            offsets[sent.partition] += 1
            log.append(Record(sent.partition, offset, 0, sent.key, sent.value))
    return log


def keep(owner: ItemStatistics, records: Sequence[Record]) -> dict[int, int]:
    return dict(asyncio.run(owner.keep(records)))


def test_what_events_say_is_in_the_rows_the_lists_and_the_marks() -> None:
    """The main job."""
    shop = Shop()
    log = a_log([("hat", "shoes"), ("hat", "scarf"), ("shoes", "hat")], records=3)

    committed = keep(shop.owner(), log)

    hat = shop.rows()[item_key("hat")]
    assert hat.counts()[3].ever == 2
    assert {one.item_key for one in hat.neighbours(Kind.CO_VISITED)} == {
        item_key("shoes"),
        item_key("scarf"),
    }
    assert [key for key, _ in shop.lists().best(9)] == [item_key("hat"), item_key("shoes")]
    assert [key for key, _ in shop.lists().best(9, "hats")] == [item_key("hat")]
    assert committed == shop.items.positions()
    assert (
        sum(Mark.from_bytes(raw).counts[Outcome.FOLDED] for raw in shop.items.marks.values()) == 3
    )


def test_a_repeat_in_the_same_batch_is_taken_in_once() -> None:
    """An owner of events that died says again what it had said: the last event next to itself."""
    shop = Shop()
    log = a_log([("hat", "shoes")])
    again = [record._replace(offset=record.offset + 1) for record in log]

    keep(shop.owner(), [*log, *again])

    assert shop.rows()[item_key("hat")].counts()[3].ever == 1
    marks = [Mark.from_bytes(raw).counts for raw in shop.items.marks.values()]
    assert sum(counts[Outcome.DUPLICATE] for counts in marks) == 1


def test_whoever_is_behind_rests_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    """Under load a rest takes longer than it is meant to, and more comes in than is done."""
    moments = itertools.count(0.0, 0.1)
    rests: list[float] = []

    async def rest(seconds: float) -> None:
        rests.append(seconds)

    monkeypatch.setattr(item_statistics, "perf_counter", lambda: next(moments))
    monkeypatch.setattr(asyncio, "sleep", rest)

    keep(Shop().owner(), a_log([(f"item {n}", "shoes") for n in range(8)], records=8))

    assert rests == sorted(rests, reverse=True)
    assert set(rests) == {item_statistics.REST_S, 0}


def test_an_owner_of_before_writes_nothing() -> None:
    """It was paused, another took over, and now it wakes up with its rows in memory."""
    shop = Shop()
    log = a_log([("hat", "shoes")] * 4, records=4)
    zombie = shop.owner()
    keep(zombie, log[:1])
    keep(shop.owner(), log[1:3])
    rows, lists, marks = dict(shop.items.rows), dict(shop.trending.rows), dict(shop.items.marks)

    with pytest.raises(StateMoved):
        keep(zombie, log[1:])

    assert (shop.items.rows, shop.trending.rows, shop.items.marks) == (rows, lists, marks)


def test_items_beyond_the_memory_are_read_again() -> None:
    """A catalogue may be larger than a worker."""
    log = a_log([("hat", "shoes"), ("shoes", "hat"), ("hat", "scarf"), ("scarf", "hat")] * 5, 20)
    large, small = Shop(), Shop()
    owner = small.owner(in_memory=1)

    for record in log:
        keep(owner, [record])
    keep(large.owner(), log)

    assert small.rows() == large.rows()


def test_what_was_assigned_to_another_is_forgotten() -> None:
    """By the time it comes back, it is no longer what it was."""
    shop = Shop()
    log = a_log([("hat", "shoes")] * 3, records=3)
    first, second = shop.owner(), None
    keep(first, log[:1])
    second = shop.owner()
    keep(second, log[1:2])

    asyncio.run(first.take_over(range(PARTITIONS)))
    keep(first, log[2:])

    assert shop.rows()[item_key("hat")].counts()[3].ever == 3


events = st.lists(
    st.tuples(st.sampled_from(NAMES), st.sampled_from(NAMES)), min_size=1, max_size=20
)
DEATHS = ("before rows", "after rows", "before marks", "after marks")


@settings(deadline=None, max_examples=150)
@given(events, st.integers(1, 8), st.data())
def test_a_death_anywhere_changes_nothing(
    drawn: list[tuple[str, str]], records: int, data: st.DataObject
) -> None:
    """Killed before or after any write, and cut into other batches: same rows, lists, and marks."""
    log = a_log(drawn, records)
    calm, shaken = Shop(), Shop()
    keep(calm.owner(), log)

    committed: dict[int, int] = {}
    owner, deaths = shaken.owner(), 0
    while left := unsettled(log, committed):
        store = data.draw(st.sampled_from([shaken.items, shaken.trending]), label="store")
        store.die_at = data.draw(st.sampled_from([None, *DEATHS]), label="death")
        if deaths > 5:
            store.die_at = None
        try:
            committed |= keep(owner, left[: data.draw(st.integers(1, 5), label="batch")])
        except Crash:
            deaths += 1
            owner = shaken.owner()
            committed = asyncio.run(owner.take_over(range(PARTITIONS)))
        store.die_at = None

    for key, row in calm.rows().items():
        again = shaken.rows()[key]
        assert (again.counts(), again.sources) == (row.counts(), row.sources)
        assert again.to_bytes() == row.to_bytes()
    assert shaken.lists() == calm.lists()
    assert shaken.items.positions() == calm.items.positions()


@settings(deadline=None, max_examples=150, phases=(Phase.explicit, Phase.reuse, Phase.generate))
@given(events, st.integers(1, 8), st.data())
def test_a_store_that_loses_its_newest_writes_at_any_moment_changes_nothing(
    drawn: list[tuple[str, str]], records: int, data: st.DataObject
) -> None:
    """Acknowledged and gone, as a replica's that takes over; in a repeat after a death as well."""
    log = a_log(drawn, records)
    calm, shaken = Shop(), Shop()
    keep(calm.owner(), log)
    losses = 0

    async def lose() -> None:
        shaken.items.lose(data.draw(st.integers(1, 5), label="writes lost"))

    owner = shaken.owner()
    while left := unsettled(log, shaken.items.positions()):
        stores = [shaken.items, shaken.trending]
        if losses < 5:
            moment = data.draw(st.sampled_from([None, *DEATHS]), label="lost")
            data.draw(st.sampled_from(stores)).meanwhile = moment and (moment, lose)
            death = data.draw(st.sampled_from([None, *DEATHS]), label="death")
            data.draw(st.sampled_from(stores)).die_at = death
        try:
            keep(owner, left[: data.draw(st.integers(1, 5), label="batch")])
        except (Crash, StateMoved):
            owner, losses = shaken.owner(), losses + 1
        for store in stores:
            store.meanwhile = store.die_at = None

    assert {key: row.to_bytes() for key, row in shaken.rows().items()} == {
        key: row.to_bytes() for key, row in calm.rows().items()
    }
    assert shaken.lists() == calm.lists()
