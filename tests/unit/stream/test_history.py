"""A user's row: what is remembered, in which order, and that packing loses nothing."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stream.events import Event
from stream.fold import take_in
from stream.history import LIMITS, Outcome, UnknownRowFormat, UserRow, ranker_inputs
from stream.keys import item_key
from tests.builders import T0_MS, an_event

KINDS = ("click", "view", "purchase", "refund", "dislike", "impression", "search")


def folded(events: list[Event], row: UserRow | None = None) -> tuple[UserRow, list[Outcome]]:
    row, outcomes = UserRow.from_bytes(row and row.to_bytes()), []
    start = row.offset + 1
    for offset, event in enumerate(events, start=start):
        outcome, _ = take_in(row, event, partition=0, offset=offset)
        outcomes.append(outcome)
    return row, outcomes


def items(row: UserRow, name: str = "interactions") -> list[int]:
    return row.lists[name]["item_key"].tolist()


events = st.lists(
    st.builds(
        lambda number, kind, ms: an_event(
            event_id=f"n{number}",
            event_type=kind,
            at_ms=T0_MS + ms,
            item_id=f"i{number % 7}",
            query="q",
        ),
        number=st.integers(0, 60),
        kind=st.sampled_from(KINDS),
        ms=st.integers(0, 5),
    ),
    max_size=40,
)


@given(events)
def test_packing_loses_nothing(history: list[Event]) -> None:
    """The packed row is the only copy of the state."""
    row, _ = folded(history)

    again = UserRow.from_bytes(row.to_bytes())

    assert again.to_bytes() == row.to_bytes()
    assert (again.partition, again.offset, again.tally) == (row.partition, row.offset, row.tally)


@given(events)
def test_folding_again_what_was_folded_changes_nothing(history: list[Event]) -> None:
    """Producers retry: a second copy of an event is a duplicate wherever it turns up."""
    row, _ = folded(history)

    again, outcomes = folded(history, row)

    assert set(outcomes) <= {Outcome.DUPLICATE}
    for name, entries in row.lists.items():
        assert again.lists[name].tobytes() == entries.tobytes()


@given(events)
def test_lists_are_in_order_of_time_then_offset(history: list[Event]) -> None:
    """40 % of real events share a millisecond with the one before, so the tie matters."""
    row, _ = folded(history)

    for entries in row.lists.values():
        order = list(zip(entries["timestamp_ms"], entries["offset"], strict=True))
        assert order == sorted(order)


@pytest.mark.parametrize("kind", ["click", "purchase", "dislike", "impression"])
def test_a_list_keeps_the_newest_and_the_others_alone(kind: str) -> None:
    """A thousand impressions never push out a purchase."""
    first = an_event(event_type="purchase" if kind != "purchase" else "click", item_id="kept")
    many = [an_event(event_type=kind, item_id=f"i{n}", at_ms=T0_MS + n) for n in range(300)]

    row, outcomes = folded([first, *many])

    name = {"click": "interactions", "purchase": "purchases"}.get(kind, f"{kind}s")
    limit = LIMITS[name]
    assert items(row, name) == [item_key(f"i{n}") for n in range(300 - limit, 300)]
    assert sum(len(entries) for entries in row.lists.values()) == limit + 1
    assert set(outcomes) == {Outcome.FOLDED}


def test_searches_push_out_no_action() -> None:
    """The ranker reads the newest 128 actions, however much was searched between them."""
    searches = [an_event(event_type="search", query="q", at_ms=T0_MS + n) for n in range(1, 200)]

    row, _ = folded([an_event(item_id="kept"), *searches])

    assert row.ranker_input(128).item_keys.tolist() == [item_key("kept")]
    assert len(row.lists["searches"]) == LIMITS["searches"]


def test_what_cannot_be_told_from_an_evicted_event_is_late() -> None:
    """An evicted event delivered again must not be folded a second time."""
    many = [an_event(at_ms=T0_MS + n) for n in range(LIMITS["interactions"] + 1)]
    row, _ = folded(many)

    _, (evicted_again,) = folded([many[0]], row)
    _, (same_ms,) = folded([an_event(at_ms=T0_MS)], row)
    _, (newer,) = folded([an_event(at_ms=T0_MS + 1)], row)

    assert (evicted_again, same_ms, newer) == (Outcome.LATE, Outcome.LATE, Outcome.FOLDED)


def test_events_out_of_order_end_in_order() -> None:
    """Phones deliver yesterday's clicks today."""
    row, outcomes = folded(
        [an_event(item_id=i, at_ms=T0_MS + ms) for i, ms in (("b", 2), ("c", 3), ("a", 1))]
    )

    assert items(row) == [item_key(i) for i in "abc"]
    assert set(outcomes) == {Outcome.FOLDED}


def test_a_refund_undoes_its_purchase() -> None:
    """What was sent back may be recommended again; what was kept may not."""
    row, _ = folded(
        [
            an_event(event_type="purchase", item_id="kept", at_ms=T0_MS),
            an_event(event_type="purchase", item_id="returned", at_ms=T0_MS),
            an_event(event_type="refund", item_id="returned", at_ms=T0_MS + 1),
        ]
    )

    assert row.bought() == {item_key("kept")}


def test_the_ranker_reads_the_newest_actions_of_all_lists_in_order() -> None:
    """Impressions and searches are no actions on items."""
    row, _ = folded(
        [
            an_event(item_id="a", at_ms=T0_MS),
            an_event(item_id="b", at_ms=T0_MS + 1000, event_type="purchase"),
            an_event(item_id="shown", at_ms=T0_MS + 1500, event_type="impression"),
            an_event(query="hats", at_ms=T0_MS + 1600, event_type="search"),
            an_event(item_id="c", at_ms=T0_MS + 3000, event_type="dislike"),
        ]
    )

    read = row.ranker_input(length=2)

    assert read.item_keys.tolist() == [item_key("b"), item_key("c")]
    assert read.event_types.tolist() == [9, 11]
    assert read.ages_s.tolist() == [2.0, 0.0]
    assert (read.item_keys.dtype, read.event_types.dtype, read.ages_s.dtype) == (
        np.int64,
        np.int32,
        np.float32,
    )


@given(events)
def test_the_ranker_reads_actions_of_one_millisecond_as_they_arrived(history: list[Event]) -> None:
    """A purchase and the click after it are in two lists, and often share their time."""
    row, _ = folded(history)
    actions = [row.lists[name] for name in ("interactions", "purchases", "dislikes")]
    expected = sorted(
        (at, offset, key) for one in actions for at, offset, _, key, *_ in one.tolist()
    )

    assert row.ranker_input(128).item_keys.tolist() == [key for _, _, key in expected]


@given(st.lists(events, max_size=5), st.integers(1, 20))
def test_who_shares_the_batch_changes_nothing(histories: list[list[Event]], length: int) -> None:
    """All rows of a micro-batch are read as one array."""
    rows = [folded(history)[0] for history in histories]

    together = ranker_inputs(rows, length)

    for row, read in zip(rows, together, strict=True):
        alone = ranker_inputs([row], length)[0]
        for name in read.__slots__:
            assert getattr(read, name).tolist() == getattr(alone, name).tolist()


def test_a_row_of_another_format_is_refused() -> None:
    """Guessing at bytes would corrupt a user's state silently."""
    with pytest.raises(UnknownRowFormat, match="row format 9"):
        UserRow.from_bytes(b"\x09\x00" + UserRow().to_bytes()[2:])
