"""The whole pipeline on fakes: the right slate comes out, and a crash anywhere changes nothing."""

import asyncio
from collections.abc import Sequence
from copy import deepcopy
from typing import Any
from unittest.mock import patch

import orjson
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from stream import topics
from stream.history import LIMITS, Outcome, UserRow
from stream.item_row import ItemRow
from stream.keys import item_key, partition_of
from stream.marks import Mark
from stream.pipeline import Pipeline, Rules
from stream.ranking import Ranked
from stream.recommend import recommend
from stream.records import BACKFILL, Outgoing, Record
from stream.signals import Kind, from_bytes, signal_records
from stream.state import StateMoved
from stream.trace import Trace
from tests.builders import T0_MS, a_record, an_item
from tests.fakes import Crash, FakeItems, FakeRanker, FakeStore, a_pipeline, unsettled


def run(pipeline: Pipeline, records: list[Record]) -> dict[int, int]:
    return dict(asyncio.run(recommend(pipeline, records)))


def slates(pipeline: Pipeline) -> list[dict]:
    return [orjson.loads(one.value) for one in pipeline.publish.on(topics.RECOMMENDATIONS)]


def shown(slate: dict) -> list[str]:
    return [item["item_id"] for item in slate["items"]]


def counts(pipeline: Pipeline) -> list[int]:
    marks = [Mark.from_bytes(raw) for raw in pipeline.store.marks.values()]
    return [sum(mark.counts[outcome] for mark in marks) for outcome in Outcome]


def signals(pipeline: Pipeline) -> set[tuple[Any, ...]]:
    """Deltas, each once however often it was published."""
    published = pipeline.publish.on(topics.SIGNALS)
    return {delta for one in published for delta in from_bytes(one.value).tolist()}


def test_an_event_gives_its_users_slate() -> None:
    """The main job."""
    pipeline = a_pipeline()
    record = a_record(7, user_id="ada", item_id="hat", event_id="e1")

    committed = run(pipeline, [record])

    (slate,) = slates(pipeline)
    assert shown(slate) == ["shoes", "scarf", "hat"]
    assert [item["rank"] for item in slate["items"]] == [1, 2, 3]
    assert slate["user_id"] == "ada"
    assert slate["strategy"] == "ranker"
    assert slate["model"] == {"name": "ranker", "version": "1"}
    assert slate["state"] == {"partition": record.partition, "offset": 7}
    assert slate["trigger"] == {"kind": "event", "event_id": "e1"}
    assert slate["as_of"] == "2016-08-01T12:00:00Z"
    assert committed == {record.partition: 8}


def test_a_micro_batch_gives_one_slate_a_user_and_asks_the_ranker_once() -> None:
    """Twenty clicks of one user need one answer, made from all twenty."""
    pipeline = a_pipeline()
    records = [a_record(n, user_id=u, at_ms=T0_MS + n) for n in range(5) for u in ("ada", "bob")]

    run(pipeline, records)

    assert [slate["user_id"] for slate in slates(pipeline)] == ["ada", "bob"]
    assert [len(asked.item_keys) for asked in pipeline.ranker.asked] == [5, 5]
    assert {slate["state"]["offset"] for slate in slates(pipeline)} == {4}


def test_the_ranker_is_asked_before_signals_are_packed() -> None:
    """It works elsewhere, and its answer is what a slate waits for."""
    happened: list[str] = []

    class Remote(FakeRanker):
        async def rank(self, *args: Any, **kwargs: Any) -> Ranked:
            for _ in range(3):  # a client of gRPC starts tasks before its request leaves
                await asyncio.sleep(0)
            happened.append("asked")
            return await super().rank(*args, **kwargs)

    def packed(deltas: bytes | bytearray) -> list[Outgoing]:
        happened.append("packed")
        return signal_records(deltas)

    pipeline = a_pipeline(ranker=Remote("shoes", "scarf", "hat", "coat"))
    with patch("stream.recommend.signal_records", packed):
        run(pipeline, [a_record(0)])

    assert happened == ["asked", "packed"]


def test_without_the_ranker_the_slate_is_popular_and_says_so() -> None:
    """A degraded answer is never silent."""
    pipeline = a_pipeline()
    pipeline.ranker.down = True

    run(pipeline, [a_record(0)])

    (slate,) = slates(pipeline)
    assert (slate["strategy"], slate["model"]) == ("popular", None)
    assert shown(slate) == ["coat", "hat"]
    assert pipeline.versions.failures == {("1", "down"): 1}
    assert pipeline.observe.degraded == 1


def test_without_a_model_what_is_trending_is_popular() -> None:
    """Day zero: nothing is deployed, and shoppers are already there."""
    pipeline = a_pipeline(
        deployment=lambda: None, trending=lambda: [item_key("scarf"), item_key("hat")]
    )

    run(pipeline, [a_record(9, user_id="new", item_id="hat")])

    (slate,) = slates(pipeline)
    assert (slate["strategy"], shown(slate)) == ("popular", ["scarf", "hat"])
    assert slate["items"][0]["sources"] == ["trending"]


def test_without_the_ranker_a_visitor_sees_what_others_went_on_to() -> None:
    """Neighbours of the items visited last, then what is trending, then the deployed version's."""
    hat, coat = ItemRow(), ItemRow()
    for at, (row, other, weight) in enumerate(
        [(hat, "scarf", 3.0), (hat, "hat", 1.0), (coat, "shoes", 1.0)]
    ):
        row.fold([(0, 0, at, Kind.CO_VISITED, 0, item_key(other), weight, T0_MS)])
    rows = {item_key("hat"): hat.to_bytes(), item_key("coat"): coat.to_bytes()}
    pipeline = a_pipeline(items=FakeItems(rows), rules=Rules(slate_size=4))
    pipeline.ranker.down = True

    run(pipeline, [a_record(n, item_id=i, at_ms=T0_MS + n) for n, i in enumerate(("hat", "coat"))])

    (slate,) = slates(pipeline)
    assert (slate["strategy"], slate["model"]) == ("co_visited", None)
    assert shown(slate) == ["shoes", "scarf", "hat", "coat"]
    sources = [item["sources"] for item in slate["items"]]
    assert sources == [["co_visited"], ["co_visited"], ["co_visited"], ["popular"]]


def test_items_are_read_only_when_no_ranker_answered() -> None:
    """The statistics of others cost the usual slate nothing."""

    async def never(item_keys: Sequence[int]) -> list[bytes | None]:
        raise AssertionError

    run(a_pipeline(items=never), [a_record(0)])


def test_a_user_without_a_history_on_items_gets_popular_items() -> None:
    """A search alone gives the ranker nothing to read."""
    pipeline = a_pipeline()

    run(pipeline, [a_record(0, event_type="search", query="hats", item_id=...)])

    assert slates(pipeline)[0]["strategy"] == "popular"
    assert pipeline.ranker.asked == []
    assert pipeline.observe.degraded == 0  # no version could have done better


def test_what_cannot_be_had_or_was_bought_is_not_shown() -> None:
    """Gone, unavailable, unknown and bought items waste places of a slate."""
    pipeline = a_pipeline()
    pipeline.catalogue.put(an_item("shoes", available=False))
    pipeline.catalogue.delete("scarf")
    pipeline.ranker.item_ids = ("never heard of", "shoes", "scarf", "hat", "coat")

    run(pipeline, [a_record(0, event_type="purchase", item_id="hat")])

    assert shown(slates(pipeline)[0]) == ["coat"]


def test_a_grocer_shows_what_was_bought() -> None:
    """Milk is bought again every week."""
    pipeline = a_pipeline(rules=Rules(slate_size=3, hide_bought=False))

    run(pipeline, [a_record(0, event_type="purchase", item_id="hat")])

    assert "hat" in shown(slates(pipeline)[0])


def test_an_unknown_item_is_folded_and_not_recommended() -> None:
    """An event may arrive before its item does."""
    pipeline = a_pipeline()
    pipeline.ranker.item_ids = ("new", "hat")

    run(pipeline, [a_record(0, item_id="new")])
    pipeline.catalogue.put(an_item("new"))
    run(pipeline, [a_record(1, item_id="hat")])

    before, after = slates(pipeline)
    assert ("new" in shown(before), "new" in shown(after)) == (False, True)
    assert counts(pipeline)[Outcome.FOLDED] == 2


def test_history_builds_the_state_and_publishes_nothing() -> None:
    """A backfill of a year must not push a year of slates."""
    pipeline = a_pipeline()

    run(pipeline, [a_record(0)._replace(headers=(BACKFILL,))])

    assert slates(pipeline) == []
    assert len(UserRow.from_bytes(pipeline.store.rows["ada"]).lists["interactions"]) == 1
    assert counts(pipeline)[Outcome.FOLDED] == 1


def test_garbage_becomes_a_letter_and_the_stream_goes_on() -> None:
    """One bad record neither stops the partition nor disappears."""
    pipeline = a_pipeline()
    bad = Record(5, 11, T0_MS, b"\xffkey", b"not json", (("h", b"1"), ("h", None)))

    run(pipeline, [bad, a_record(12, user_id="ada")])

    (letter,) = pipeline.publish.on(topics.EVENTS_DLQ)
    assert (letter.key, letter.value, letter.headers[:2]) == (bad.key, bad.value, bad.headers)
    added = dict(letter.headers[2:])
    assert added["headrace-source-topic"] == b"events.v1"
    assert (added["headrace-source-partition"], added["headrace-source-offset"]) == (b"5", b"11")
    assert b"json_invalid" in added["headrace-reason"]
    assert added["headrace-failed-at"] == b"2026-01-01T00:00:00+00:00"
    assert len(slates(pipeline)) == 1
    assert counts(pipeline) == [1, 0, 0, 0, 1]


@pytest.mark.parametrize("key", [None, b"", b"bob", b"\xff"])
def test_a_record_under_another_key_is_published_again_under_its_users(key: bytes | None) -> None:
    """Else one user's events would be folded by two workers."""
    pipeline = a_pipeline()
    record = a_record(3, user_id="ada")._replace(key=key, headers=(("h", b"1"),))

    run(pipeline, [record])

    (again,) = pipeline.publish.on(topics.EVENTS)
    assert (again.key, again.value, again.partition) == (b"ada", record.value, record.partition)
    assert again.headers[0] == ("h", b"1")
    assert (slates(pipeline), counts(pipeline)) == ([], [0, 0, 0, 1, 0])


def test_a_record_of_another_partitioner_is_published_again_where_it_belongs() -> None:
    """librdkafka's default puts 87 % of users elsewhere than Java's."""
    pipeline = a_pipeline()
    record = a_record(3, user_id="ada")
    elsewhere = record._replace(partition=(record.partition + 1) % topics.EVENT_PARTITIONS)

    run(pipeline, [elsewhere])

    (again,) = pipeline.publish.on(topics.EVENTS)
    assert again.partition == partition_of(b"ada", topics.EVENT_PARTITIONS)
    run(pipeline, [record])
    assert counts(pipeline) == [1, 0, 0, 1, 0]


@pytest.mark.parametrize("moment", ["before slates", "after slates", "before marks"])
def test_of_batches_in_flight_one_has_slates_out_and_no_mark(moment: str) -> None:
    """A crash repeats those, so that it repeats no more than one micro-batch."""
    pipeline = a_pipeline()
    ada, bob = a_record(0, user_id="ada"), a_record(0, user_id="bob")
    assert ada.partition != bob.partition
    others: list[asyncio.Task[Any]] = []
    out: list[str] = []

    async def the_other_goes_as_far_as_it_can() -> None:
        others.append(asyncio.create_task(recommend(pipeline, [bob])))
        for _ in range(100):
            await asyncio.sleep(0)
        out.extend(slate["user_id"] for slate in slates(pipeline))

    async def both() -> None:
        await recommend(pipeline, [ada])
        await asyncio.gather(*others)

    pipeline.store.meanwhile = pipeline.publish.meanwhile = (
        moment,
        the_other_goes_as_far_as_it_can,
    )
    asyncio.run(both())

    assert out == ([] if moment == "before slates" else ["ada"])
    assert [slate["user_id"] for slate in slates(pipeline)] == ["ada", "bob"]


def test_records_before_the_mark_are_settled() -> None:
    """A fresh consumer group reads the log again: nothing is folded or counted twice."""
    pipeline = a_pipeline()
    records = [a_record(n, at_ms=T0_MS + n) for n in range(5)]
    run(pipeline, records)
    rows, published = dict(pipeline.store.rows), len(pipeline.publish.published)

    run(pipeline, records)

    assert pipeline.store.rows == rows
    assert len(pipeline.publish.published) == published
    assert counts(pipeline) == [5, 0, 0, 0, 0]


def test_a_store_that_comes_back_older_stops_the_worker_and_the_next_one_rewinds() -> None:
    """A restored snapshot: rows and marks of an hour ago, and a consumer that is an hour ahead."""
    calm, store = a_pipeline(), FakeStore()
    records = [a_record(n, user_id=f"u{n % 3}", at_ms=T0_MS + n) for n in range(12)]
    run(calm, records)
    worker = a_pipeline(store=store)
    run(worker, records[:4])
    snapshot = deepcopy((store.rows, store.marks, store.applied))
    run(worker, records[4:8])
    published = len(worker.publish.published)
    store.rows, store.marks, store.applied = snapshot

    with pytest.raises(StateMoved):
        run(worker, records[8:])

    assert len(worker.publish.published) == published
    run(a_pipeline(store=store), records)
    assert {user: UserRow.from_bytes(raw).applied for user, raw in store.rows.items()} == {
        user: UserRow.from_bytes(raw).applied for user, raw in calm.store.rows.items()
    }
    assert store.marks == calm.store.marks


traffic = st.lists(
    st.tuples(
        st.sampled_from(["ada", "bob"]),
        st.sampled_from(["click", "click", "purchase"]),
        st.integers(0, 25),  # event number: repeats are duplicates
        st.integers(0, 9),  # event time
        st.sampled_from(["good", "good", "good", "garbage", "no key"]),
    ),
    min_size=8,
    max_size=30,
)


def as_records(drawn: list[tuple[str, str, int, int, str]]) -> list[Record]:
    records, offsets = [], dict.fromkeys(range(topics.EVENT_PARTITIONS), 0)
    for user, kind, number, ms, how in drawn:
        record = a_record(
            0, user_id=user, event_type=kind, event_id=f"{user}{number}", at_ms=T0_MS + ms
        )
        if how == "garbage":
            record = record._replace(value=b"garbage")
        elif how == "no key":
            record = record._replace(key=None)
        # Aborted transactions leave holes in a log: one offset in three is missing.
        offset = offsets[record.partition]
        offsets[record.partition] += 1 + (offset % 3 == 0)
        records.append(record._replace(offset=offset))
    return records


def assert_same_state(shaken: Pipeline, calm: Pipeline) -> None:
    """Counts, what was said of items, and every byte of the rows."""
    assert counts(shaken) == counts(calm)
    assert signals(shaken) == signals(calm)
    for user, raw in calm.store.rows.items():
        expected, actual = UserRow.from_bytes(raw), UserRow.from_bytes(shaken.store.rows[user])
        for row in (actual, expected):
            row.settle(10**9)
        assert actual.to_bytes() == expected.to_bytes()


# Shrinking a counterexample of this size takes minutes and makes it little clearer.
thorough = settings(
    max_examples=200,
    deadline=None,  # two cores, and others at work on them
    phases=(Phase.explicit, Phase.reuse, Phase.generate),
    report_multiple_bugs=False,
    suppress_health_check=[HealthCheck.too_slow],  # machines are shared
)

# Before and after every effect, in their order.
MOMENTS = [
    f"{when} {effect}"
    for effect in ("signals", "rows", "slates", "marks")
    for when in ("before", "after")
]


@thorough
@patch.dict(LIMITS, dict.fromkeys(LIMITS, 2))  # so short that events are evicted, and late
@given(traffic, st.data())
def test_a_crash_anywhere_changes_nothing(
    drawn: list[tuple[str, str, int, int, str]], data: st.DataObject
) -> None:
    """Killed before or after any write, and cut into other batches: same rows, same counts."""
    records = as_records(drawn)
    calm = a_pipeline()
    run(calm, records)

    shaken, committed, store = a_pipeline(), {}, FakeStore()
    deaths = 0
    while left := unsettled(records, committed):
        shaken = a_pipeline(store=store, publish=shaken.publish)
        batch = left[: data.draw(st.integers(1, 10), label="batch")]
        death = data.draw(
            st.sampled_from([None, *MOMENTS] if deaths < 10 else [None]), label="death"
        )
        store.die_at = shaken.publish.die_at = death
        try:
            committed |= run(shaken, batch)
        except Crash:
            deaths += 1
            if data.draw(st.booleans(), label="fresh group"):
                committed = {}

    assert_same_state(shaken, calm)
    last = {slate["user_id"]: slate["state"] for slate in slates(shaken)}
    assert last == {slate["user_id"]: slate["state"] for slate in slates(calm)}


@pytest.mark.parametrize("moment", ["after rows", "before slates", "after slates", "before marks"])
def test_a_mark_speaks_for_no_rows_that_the_store_has_lost(moment: str) -> None:
    """Its own comparison holds: the mark is older than the rows, and was not lost with them."""
    pipeline = a_pipeline()
    run(pipeline, [a_record(0)])

    async def lose() -> None:
        pipeline.store.lose(writes=1)

    pipeline.store.meanwhile = pipeline.publish.meanwhile = (moment, lose)
    with pytest.raises(StateMoved):
        run(pipeline, [a_record(1)])

    run(a_pipeline(store=pipeline.store), [a_record(1)])
    row = UserRow.from_bytes(pipeline.store.rows["ada"])
    assert row.lists["interactions"]["offset"].tolist() == [0, 1]
    assert counts(pipeline) == [2, 0, 0, 0, 0]


@pytest.mark.parametrize("lost", [1, 2])
@pytest.mark.parametrize("repeat", [["ada", "bob"], ["ada", "bob", "ada"], ["ada", "bob", "eve"]])
def test_a_mark_speaks_for_no_rows_of_an_earlier_attempt_that_are_lost(
    repeat: list[str], lost: int
) -> None:
    """A death came before the mark; its repeat finds rows as they should be, then they are gone."""
    records = [a_record(n, user_id=user, at_ms=T0_MS + n) for n, user in enumerate(repeat)]
    store = FakeStore()
    first, second = a_pipeline(store=store), a_pipeline(store=store)
    first.publish.die_at = "before slates"
    with pytest.raises(Crash):
        run(first, records[:2])

    async def lose() -> None:
        store.lose(writes=lost)

    store.meanwhile = ("before marks", lose)
    if lost == 1 and len(repeat) == 2:  # what is lost had changed nothing
        run(second, records)
    else:
        with pytest.raises(StateMoved):
            run(second, records)

    run(a_pipeline(store=store), records)
    for user in repeat:
        interactions = UserRow.from_bytes(store.rows[user]).lists["interactions"]
        assert len(interactions) == repeat.count(user)


@thorough
@patch.dict(LIMITS, dict.fromkeys(LIMITS, 2))
@given(traffic, st.data())
def test_a_store_that_loses_its_newest_writes_at_any_moment_changes_nothing(
    drawn: list[tuple[str, str, int, int, str]], data: st.DataObject
) -> None:
    """Acknowledged and gone, as a replica's that takes over; in a repeat after a death as well."""
    records = as_records(drawn)
    calm = a_pipeline()
    run(calm, records)
    store, losses = FakeStore(), 0
    shaken = a_pipeline(store=store)

    async def lose() -> None:
        store.meanwhile = shaken.publish.meanwhile = None
        store.lose(data.draw(st.integers(1, 5), label="writes lost"))

    while left := unsettled(records, store.positions()):
        moments = st.sampled_from([None, *MOMENTS] if losses < 10 else [None])
        moment = data.draw(moments, label="lost")
        store.meanwhile = shaken.publish.meanwhile = moment and (moment, lose)
        store.die_at = shaken.publish.die_at = data.draw(moments, label="death")
        try:
            run(shaken, left[: data.draw(st.integers(1, 10), label="batch")])
        except (Crash, StateMoved):
            shaken, losses = a_pipeline(store=store, publish=shaken.publish), losses + 1

    assert store.positions() == calm.store.positions()
    assert_same_state(shaken, calm)


@thorough
@patch.dict(LIMITS, dict.fromkeys(LIMITS, 2))
@given(traffic, st.data())
def test_a_worker_that_wakes_up_after_another_has_gone_on_changes_nothing(
    drawn: list[tuple[str, str, int, int, str]], data: st.DataObject
) -> None:
    """SIGSTOP between any two effects: the row that it holds is old by the time it goes on."""
    records = as_records(drawn)
    calm = a_pipeline()
    run(calm, records)
    store = FakeStore()
    settled = data.draw(st.integers(0, len(records) - 1), label="settled before")
    run(a_pipeline(store=store), records[:settled])
    sleeper = a_pipeline(store=store)
    left = records[settled:]
    batch = left[: data.draw(st.integers(1, len(left)), label="the sleeper's batch")]
    moment = data.draw(st.sampled_from(MOMENTS), label="falls asleep")
    after_waking: dict[str, bytes] = {}

    async def another_goes_on() -> None:
        store.meanwhile = sleeper.publish.meanwhile = None
        other, at = a_pipeline(store=store), 0
        while at < len(left):
            size = data.draw(st.integers(1, 10), label="the other's batch")
            await recommend(other, left[at : at + size])
            at += size
        after_waking.update(store.rows)

    store.meanwhile = sleeper.publish.meanwhile = (moment, another_goes_on)
    if moment == "after marks":  # it has settled its batch, and learns with the next one
        run(sleeper, batch)
    else:
        with pytest.raises(StateMoved):
            run(sleeper, batch)

    assert store.rows == after_waking
    assert counts(calm) == [
        sum(Mark.from_bytes(raw).counts[outcome] for raw in store.marks.values())
        for outcome in Outcome
    ]
    if len(left) > len(batch) or moment != "after marks":
        with pytest.raises(StateMoved):
            run(sleeper, left)


def test_a_share_of_the_inputs_is_traced_as_the_ranker_got_them() -> None:
    """Training is compared with them, so a rounding on the way would be found at the wrong end."""
    pipeline = a_pipeline(rules=Rules(slate_size=3, trace_share=0.5))
    for n in range(40):
        run(pipeline, [a_record(n, user_id=f"u{n % 20}", at_ms=T0_MS + n * 333, price=n + 0.1)])

    found = [Trace.from_json(one.value) for one in pipeline.publish.on(topics.TRACE)]

    assert 10 <= len(found) <= 30
    offsets = {slate["recommendation_id"]: slate["state"]["offset"] for slate in slates(pipeline)}
    for trace in found:
        offset = trace.state.offset
        assert offsets[trace.recommendation_id] == offset
        asked, read = pipeline.ranker.asked[offset], trace.ranker_input()
        for name in asked.__slots__:
            assert getattr(asked, name).dtype == getattr(read, name).dtype
            assert getattr(asked, name).tolist() == getattr(read, name).tolist()


def test_nothing_is_traced_unless_asked_for() -> None:
    """It is several kilobytes a slate."""
    pipeline = a_pipeline()

    run(pipeline, [a_record(0)])

    assert pipeline.publish.on(topics.TRACE) == []
