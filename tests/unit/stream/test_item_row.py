"""An item's row: what it counts, that nothing is counted twice, and that packing loses nothing."""

import math
from collections.abc import Sequence
from unittest.mock import patch

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from stream.event_types import EventType
from stream.item_row import HOUR_MS, ItemRow, Said, UnknownItemFormat, by_item
from stream.neighbours import LIMIT, Neighbour
from stream.records import Record
from stream.signals import DELTA, Deltas, Kind
from tests.builders import T0_MS

ITEM = 7
DAY_MS = 24 * HOUR_MS


def counted(
    at: int, *, kind: EventType = EventType.CLICK, weight: float = 1.0, ms: int = 0
) -> Said:
    return (ITEM, 0, at, Kind.COUNT, kind, 0, weight, T0_MS + ms)


def followed(at: int, other: int, *, weight: float = 1.0, ms: int = 0) -> Said:
    return (ITEM, 0, at, Kind.CO_VISITED, 0, other, weight, T0_MS + ms)


def folded(said: Sequence[Said]) -> ItemRow:
    """A row after *said*, each from an event of its own."""
    row = ItemRow()
    for one in said:
        row.fold([one])
    return row


def test_counts_fade_with_event_time() -> None:
    """A day-old click weighs half by the day, next to nothing by the hour, and one ever."""
    count = folded([counted(0), counted(1, ms=DAY_MS)]).counts()[EventType.CLICK]

    assert count == pytest.approx((2, 1 + 2**-24, 1.5, 1 + 2 ** (-1 / 7)))


def test_a_late_event_weighs_what_its_own_time_says() -> None:
    """A phone that was offline must not make old interest look new."""
    in_order = folded([counted(0), counted(1, ms=DAY_MS)]).counts()
    late = folded([counted(0, ms=DAY_MS), counted(1)]).counts()

    assert late[EventType.CLICK] == pytest.approx(in_order[EventType.CLICK])


def test_what_is_taken_back_is_gone() -> None:
    """Whenever the refund comes: the purchase has faded as much by then."""
    said = [
        counted(0, kind=EventType.PURCHASE),
        followed(1, 5),
        counted(2, ms=400 * DAY_MS),
        counted(3, kind=EventType.PURCHASE, weight=-1.0),
        followed(4, 5, weight=-1.0),
    ]

    row = folded(said)

    assert row.counts()[EventType.PURCHASE] == (0, 0, 0, 0)
    assert row.neighbours(Kind.CO_VISITED) == []


def test_years_do_not_overflow() -> None:
    """Weights grow by the half-life; their landmark must move on."""
    years = [counted(n, ms=n * 200 * DAY_MS) for n in range(50)]

    count = folded(years).counts()[EventType.CLICK]

    assert count == pytest.approx((50, 1, 1, 1), rel=1e-6)


def test_conversion_is_purchases_for_each_impression() -> None:
    """NaN, and not nought, for what was never shown."""
    shown = [counted(n, kind=EventType.IMPRESSION) for n in range(4)]

    assert folded([*shown, counted(9, kind=EventType.PURCHASE)]).conversion() == 0.25
    assert folded(shown).conversion() == 0
    assert math.isnan(folded([counted(0)]).conversion())


def test_neighbours_are_bounded_and_say_what_that_may_have_cost() -> None:
    """The heaviest stay, a newcomer inherits what it may have had before."""
    heavy = [followed(n, n, weight=2.0 + n) for n in range(LIMIT)]

    row = folded([*heavy, followed(1000, 555, weight=0.5)])

    neighbours = row.neighbours(Kind.CO_VISITED)
    assert len(neighbours) == LIMIT
    assert neighbours[0] == pytest.approx(Neighbour(LIMIT - 1, LIMIT + 1, 0))
    assert neighbours[-1] == pytest.approx(Neighbour(555, 2.5, 2.0))
    assert 0 not in {one.item_key for one in neighbours}


@patch("stream.neighbours.LIMIT", 3)
@given(st.lists(st.tuples(st.integers(0, 9), st.sampled_from([1.0, 0.5, 0.2, -1.0]))))
# The lightest shrinks: 0 is evicted at a weight of 3, and then 1 at a weight of 1.
@example(
    drawn=[(0, 1.0)] * 3
    + [(1, 1.0)] * 5
    + [(2, 1.0)] * 9
    + [(3, 1.0)]
    + [(1, -1.0)] * 4
    + [(4, 1.0)]
)
def test_the_true_weight_of_a_neighbour_lies_where_the_row_says(
    drawn: list[tuple[int, float]],
) -> None:
    """Also after weights were taken back, of neighbours that are listed and that are not."""
    row, true = ItemRow(), dict.fromkeys(range(10), 0.0)
    for at, (other, weight) in enumerate(drawn):
        if true[other] + weight >= 0:  # only what was said is ever taken back
            true[other] += weight
            row.fold([followed(at, other, weight=weight)])

    neighbours = {one.item_key: one for one in row.neighbours(Kind.CO_VISITED)}

    assert len(neighbours) <= 3
    for other, weight in true.items():
        if one := neighbours.get(other):
            assert one.weight - one.error - 1e-9 <= weight <= one.weight + 1e-9
        else:
            assert weight <= row.floor(Kind.CO_VISITED) + 1e-9


def test_a_neighbour_is_not_found_across_two_others() -> None:
    """Keys lie side by side as bytes, and are looked for as bytes."""
    one, two = (int.from_bytes(raw, "little") for raw in (bytes(4) + b"head", b"race" + bytes(4)))
    across = int.from_bytes(b"headrace", "little")

    row = folded([followed(at, other) for at, other in enumerate([one, two, across])])

    assert {other.item_key for other in row.neighbours(Kind.CO_VISITED)} == {one, two, across}


said = st.tuples(
    st.just(ITEM),
    st.integers(0, 2),  # source partition
    st.just(0),
    st.sampled_from([Kind.COUNT, Kind.CO_VISITED, Kind.BOUGHT_TOGETHER]),
    st.integers(1, 11),
    st.integers(1, 150),
    st.sampled_from([1.0, 0.5, -1.0]),
    st.integers(T0_MS, T0_MS + 90 * DAY_MS),
)


@st.composite
def logs(draw: st.DrawFn) -> list[list[Said]]:
    """By source partition: deltas at ascending offsets, some of one event."""
    sources: list[list[Said]] = [[], [], []]
    for one in draw(st.lists(said, max_size=60)):
        log = sources[one[1]]
        at = (log[-1][2] if log else 0) + draw(st.integers(0, 1))
        log.append((*one[:2], at, *one[3:]))
    return sources


def packed(deltas: Sequence[Said]) -> Deltas:
    made: Deltas = np.array(list(deltas), DELTA)
    return made


def fold_record(rows: dict[int, ItemRow], deltas: Deltas, *, partition: int, offset: int) -> bool:
    """Fold one record into *rows*; whether any of it was news."""
    record = Record(partition, offset, 0, None, None)
    news = [one.fold_into(rows[one.item_key], [record]) for one in by_item([deltas])]
    return any(news)


@given(logs(), st.data())
def test_repeats_and_zombies_change_nothing(sources: list[list[Said]], data: st.DataObject) -> None:
    """
    Whole records twice, records cut elsewhere, one from far back, one that came too early.

    An owner of a partition that died publishes again from its row; one that was paused publishes
    what others have published since. Either says the same of the same events, in order.
    """
    calm, shaken = {ITEM: ItemRow()}, {ITEM: ItemRow()}
    for log in sources:
        fold_record(calm, packed(log), partition=0, offset=0)
        done = 0  # events of which everything has been published once
        events = sorted({one[2] for one in log})
        while done < len(events):
            first = data.draw(st.integers(0, done), label="from")
            last = data.draw(st.integers(first, len(events)), label="to")
            between = [one for one in log if one[2] in events[first:last]]
            fold_record(shaken, packed(between), partition=0, offset=0)
            done = max(done, last)

    assert shaken[ITEM].to_bytes() == calm[ITEM].to_bytes()


@given(logs())
def test_packing_loses_nothing(sources: list[list[Said]]) -> None:
    """An item is forgotten and read again, and must go on as if it had been kept."""
    kept, reread = {ITEM: ItemRow()}, {ITEM: ItemRow()}
    for offset, log in enumerate(sources):
        for rows in (kept, reread):
            fold_record(rows, packed(log), partition=3, offset=offset)
        reread = {ITEM: ItemRow.from_bytes(reread[ITEM].to_bytes())}

    assert reread[ITEM] == kept[ITEM]
    assert reread[ITEM].to_bytes() == kept[ITEM].to_bytes()


def test_a_record_says_whether_it_was_news() -> None:
    """What an item's row was changed by last is what a compare-and-set expects of it."""
    rows = {ITEM: ItemRow()}
    deltas = packed([counted(3)])

    assert rows[ITEM].applied == ""
    assert fold_record(rows, deltas, partition=5, offset=8)
    assert not fold_record(rows, deltas, partition=5, offset=9)
    assert rows[ITEM].applied == "5:8"


def test_a_row_of_another_format_is_refused() -> None:
    """Never read as if it were ours."""
    raw = b"\x09\x00" + ItemRow().to_bytes()[2:]

    with pytest.raises(UnknownItemFormat, match="format 9"):
        ItemRow.from_bytes(raw)
