"""What events say of items: neighbours, counts, and what is taken back."""

from typing import NamedTuple

import numpy as np
import pytest

from stream import topics
from stream.events import Event
from stream.fold import take_in
from stream.history import UserRow
from stream.keys import item_key
from stream.signals import (
    DELTA,
    ORDER_LINES,
    Kind,
    UnknownSignalsFormat,
    from_bytes,
    signal_records,
    to_bytes,
)
from tests.builders import T0_MS, an_event


class Delta(NamedTuple):
    """The fields of `DELTA`."""

    item_key: int
    source_partition: int
    source_offset: int
    kind: Kind
    event_type: int
    other_key: int
    weight: float
    timestamp_ms: int


NAMES = {item_key(name): name for name in ("hat", "shoes", "scarf", "coat", "belt", "cap", "tie")}
Said = tuple[str, str, str | int, float, int]


def said(events: list[Event]) -> list[Delta]:
    """The deltas of *events*, folded one after the other into an empty row."""
    return [Delta(*one) for one in np.frombuffer(packed(events), DELTA).tolist()]


def packed(events: list[Event]) -> bytes:
    row = UserRow()
    return b"".join(
        take_in(row, event, partition=3, offset=offset)[1] for offset, event in enumerate(events)
    )


def neighbours(deltas: list[Delta], kind: Kind) -> dict[tuple[str, str], float]:
    """(item, neighbour) to the sum of weights."""
    sums: dict[tuple[str, str], float] = {}
    for delta in deltas:
        if delta.kind == kind:
            pair = NAMES[delta.item_key], NAMES[delta.other_key]
            sums[pair] = sums.get(pair, 0.0) + delta.weight
    return sums


def visits(*items: str, apart_ms: int = 1000) -> list[Event]:
    return [an_event(item_id=item, at_ms=T0_MS + n * apart_ms) for n, item in enumerate(items)]


def test_a_visit_makes_a_neighbour_of_those_before_it_in_the_session() -> None:
    """Directed, and the further apart the less."""
    co_visited = neighbours(said(visits("hat", "shoes", "scarf")), Kind.CO_VISITED)

    assert co_visited == {
        ("hat", "shoes"): 1,
        ("shoes", "scarf"): 1,
        ("hat", "scarf"): 1 / 2,
    }


def test_five_items_before_a_visit_are_enough() -> None:
    """A long session must not cost more with each visit."""
    items = ("hat", "shoes", "scarf", "coat", "belt", "cap", "tie")

    co_visited = neighbours(said(visits(*items)), Kind.CO_VISITED)

    assert {a: w for (a, b), w in co_visited.items() if b == "tie"} == {
        "cap": 1,
        "belt": 1 / 2,
        "coat": np.float32(1 / 3),
        "scarf": 1 / 4,
        "shoes": np.float32(1 / 5),
    }


def test_a_run_on_one_item_is_one_visit_and_no_item_is_its_own_neighbour() -> None:
    """View, click and cart of one product are one interest."""
    co_visited = neighbours(said(visits("hat", "shoes", "shoes", "shoes", "hat")), Kind.CO_VISITED)

    assert co_visited == {("hat", "shoes"): 1, ("shoes", "hat"): 1}


@pytest.mark.parametrize(("minutes", "found"), [(30, True), (30.001, False)])
def test_a_session_ends_after_half_an_hour(minutes: float, found: bool) -> None:
    """Yesterday's errand says nothing of today's."""
    events = visits("hat", "shoes", apart_ms=round(minutes * 60_000))

    assert bool(neighbours(said(events), Kind.CO_VISITED)) == found


def test_a_late_visit_follows_those_before_it_in_event_time() -> None:
    """A phone that was offline sends later what was done earlier."""
    hat, shoes, scarf = visits("hat", "shoes", "scarf")

    co_visited = neighbours(said([hat, scarf, shoes]), Kind.CO_VISITED)

    assert co_visited == {("hat", "scarf"): 1, ("hat", "shoes"): 1}


@pytest.mark.parametrize("kind", ["impression", "dislike", "refund", "remove_from_cart"])
def test_what_is_no_visit_is_only_counted(kind: str) -> None:
    """To be shown an item is not to look at it."""
    events = [*visits("hat"), an_event(event_type=kind, item_id="shoes", at_ms=T0_MS + 1)]

    last = said(events)[1:]

    assert [(d.kind, d.other_key, d.weight) for d in last] == [(Kind.COUNT, 0, 1.0)]


def test_a_search_says_nothing_of_items() -> None:
    """It has none."""
    assert said([an_event(event_type="search", query="hats")]) == []


def test_only_folded_events_say_something() -> None:
    """A producer that retries makes nothing more popular."""
    event = an_event(event_id="once")

    assert len(said([event, event])) == 1


def bought(
    item: str, order: str | None = "o1", at_ms: int = T0_MS, kind: str = "purchase"
) -> Event:
    ordered = {} if order is None else {"order_id": order}
    return an_event(event_type=kind, item_id=item, at_ms=at_ms, **ordered)


def test_items_of_one_order_are_bought_together_both_ways() -> None:
    """And items of two orders, or of none, are not."""
    events = [bought("hat"), bought("shoes"), bought("scarf", "o2"), bought("coat", None)]

    assert neighbours(said(events), Kind.BOUGHT_TOGETHER) == {
        ("hat", "shoes"): 1,
        ("shoes", "hat"): 1,
    }


def counts(deltas: list[Delta], event_type: int) -> list[tuple[str, float, int]]:
    return [
        (NAMES[d.item_key], d.weight, d.timestamp_ms - T0_MS)
        for d in deltas
        if d.kind == Kind.COUNT and d.event_type == event_type
    ]


def test_a_refund_takes_back_its_purchase_and_its_pairs_at_their_times() -> None:
    """Whatever the decay, the two cancel out."""
    events = [
        bought("hat", at_ms=T0_MS),
        bought("shoes", at_ms=T0_MS + 5),
        bought("scarf", at_ms=T0_MS + 9),
        bought("shoes", at_ms=T0_MS + 60_000, kind="refund"),
    ]

    deltas = said(events)

    assert counts(deltas, 9)[-1] == ("shoes", -1.0, 5)
    assert counts(deltas, 10) == [("shoes", 1.0, 60_000)]
    together = neighbours(deltas, Kind.BOUGHT_TOGETHER)
    assert {pair for pair, weight in together.items() if weight} == {
        ("hat", "scarf"),
        ("scarf", "hat"),
    }
    times: dict[tuple[int, int], set[int]] = {}
    for d in deltas:
        if d.kind == Kind.BOUGHT_TOGETHER:
            times.setdefault((d.item_key, d.other_key), set()).add(d.timestamp_ms)
    assert all(len(moments) == 1 for moments in times.values())


def test_a_refund_takes_back_the_newest_purchase_that_stands_of_its_order_if_named() -> None:
    """Two refunds undo two purchases, and a third undoes nothing."""
    first, second = bought("hat", "o1"), bought("hat", "o2", at_ms=T0_MS + 1000)
    refund, of_first = (
        bought("hat", None, T0_MS + 2000, "refund"),
        bought("hat", "o1", T0_MS + 3000, "refund"),
    )

    assert [at for _, w, at in counts(said([first, second, refund, refund]), 9) if w < 0] == [1000]
    again = bought("hat", None, T0_MS + 4000, "refund")
    third = bought("hat", None, T0_MS + 5000, "refund")
    undone = counts(said([first, second, refund, again, third]), 9)
    assert [at for _, weight, at in undone if weight < 0] == [1000, 0]
    undone = counts(said([first, second, of_first, refund]), 9)
    assert [at for _, weight, at in undone if weight < 0] == [0, 1000]
    assert not [w for _, w, _ in counts(said([bought("hat", None), of_first]), 9) if w < 0]


def test_a_refund_before_its_purchase_takes_nothing_back_later() -> None:
    """It is decided when each arrives: what was said cannot be said otherwise afterwards."""
    early = bought("hat", at_ms=T0_MS + 10, kind="refund")
    purchase = bought("hat")
    late = bought("hat", at_ms=T0_MS + 20, kind="refund")

    undone = counts(said([early, purchase, late]), 9)

    assert undone == [("hat", 1.0, 0), ("hat", -1.0, 0)]


def test_a_removal_takes_back_what_was_put_into_the_cart() -> None:
    """Baskets that were emptied speak for nothing."""
    put = an_event(event_type="add_to_cart")
    removed = an_event(event_type="remove_from_cart", at_ms=T0_MS + 7, order_id="a draft")

    assert counts(said([put, removed]), 5) == [("hat", 1.0, 0), ("hat", -1.0, 0)]


def test_deltas_travel_packed_by_target_in_source_order_those_of_an_item_together() -> None:
    """The owner compares source offsets, so one that comes later must not be the older."""
    events = visits("hat", "shoes", "scarf", "coat", "hat", "tie")
    deltas = said(events)

    records = signal_records(packed(events), partitions=2)

    unpacked = [from_bytes(one.value) for one in records if one.value]
    assert {one.topic for one in records} == {topics.SIGNALS}
    for record, found in zip(records, unpacked, strict=True):
        assert set(found["item_key"] % 2) == {record.partition}
        assert record.key == str(record.partition).encode()
        assert (np.diff(found["source_offset"]) >= 0).all()
    assert sorted(np.concatenate(unpacked).tolist()) == sorted(np.array(deltas, DELTA).tolist())
    for offset in {d.source_offset for d in deltas}:
        items = [d.item_key for d in deltas if d.source_offset == offset]
        assert items == sorted(items)


def test_the_lines_of_an_order_that_make_pairs_are_bounded() -> None:
    """Else the pairs of a large order would outgrow a record; and what made none undoes none."""
    lines = [bought(f"i{n}", at_ms=T0_MS + n) for n in range(ORDER_LINES + 3)]
    last, first = (bought(f"i{n}", at_ms=T0_MS + 999, kind="refund") for n in (ORDER_LINES + 1, 0))

    deltas = said([*lines, last, first])

    pairs = [d.weight for d in deltas if d.kind == Kind.BOUGHT_TOGETHER]
    assert pairs.count(1.0) == ORDER_LINES * (ORDER_LINES - 1)
    assert pairs.count(-1.0) == 2 * (ORDER_LINES - 1)


def test_signals_of_another_format_are_refused() -> None:
    """Never read as if they were ours."""
    raw = to_bytes(np.zeros(1, DELTA))

    with pytest.raises(UnknownSignalsFormat, match="format 9"):
        from_bytes(b"\x09\x00" + raw[2:])
    for damaged in (b"", raw[:-1]):
        with pytest.raises(UnknownSignalsFormat):
            from_bytes(damaged)
