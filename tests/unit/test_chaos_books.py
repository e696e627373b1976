"""The chaos run's second set of books: it must find what is wrong, and agree where nothing is."""

from dataclasses import dataclass
from typing import Any
from unittest.mock import patch

from hypothesis import given
from hypothesis import strategies as st

from services.kafka.slates import Slate
from stream.fold import take_in
from stream.history import LIMITS, UserRow
from stream.records import SOURCE_PARTITION
from tests.builders import T0_MS, an_event
from tests.chaos.expectation import CAPACITY, User, expect
from tests.chaos.ledger import NUMBER, Entry, Kind, Ledger
from tests.chaos.recovery import Waiting

actions = st.tuples(
    st.sampled_from(["click", "click", "purchase", "refund", "impression", "search"]),
    st.integers(0, 30),  # event id
    st.integers(0, 2),  # event time, ms: many ties
)


@given(st.lists(actions, min_size=5, max_size=40))
def test_the_rules_written_down_twice_agree(drawn: list[tuple[str, int, int]]) -> None:
    """Otherwise a chaos run would find misses that are none, or miss what is one."""
    small = dict.fromkeys(LIMITS, 2)
    with patch.dict(LIMITS, small), patch.dict(CAPACITY, small):
        row, user = UserRow(), User()
        for offset, (kind, number, at_ms) in enumerate(drawn):
            event = an_event(
                event_type=kind, event_id=f"e{number}", at_ms=T0_MS + at_ms, query="tote"
            )
            outcome, _ = take_in(row, event, partition=0, offset=offset)
            said = user.take(kind, f"e{number}", T0_MS + at_ms, offset)

            assert said == outcome.name.lower()
        for name, bounded in user.lists.items():
            kept = [(at, offset) for at, offset, _ in bounded.entries]
            entries = row.lists[name]
            stored = zip(entries["timestamp_ms"].tolist(), entries["offset"].tolist(), strict=True)
            assert list(stored) == kept


@dataclass
class Logged:
    """As much of a Kafka message as the books read."""

    at: tuple[int, int]
    number: int
    copied: bool = False

    def partition(self) -> int:
        return self.at[0]

    def offset(self) -> int:
        return self.at[1]

    def headers(self) -> list[tuple[str, bytes]]:
        numbered = [(NUMBER, str(self.number).encode())]
        return [*numbered, (SOURCE_PARTITION, b"0")] if self.copied else numbered


def a_ledger(*entries: Entry) -> Ledger:
    """Entries delivered to partition 1, at the offset of their number."""
    ledger = Ledger()
    for entry in entries:
        number = ledger.write(entry)
        ledger.delivered(number, 1, number)
    return ledger


def books(ledger: Ledger, *log: Any) -> Any:
    """`expect`, on stand-ins of messages."""
    return expect(ledger, log)


def a_click(kind: Kind = Kind.PLAIN, event_id: str = "e1") -> Entry:
    return Entry(kind, "ada", event_id, "click", T0_MS)


def test_every_record_is_accounted_for() -> None:
    """A misplaced record counts where it was, and its copy where it belongs; a second one too."""
    ledger = a_ledger(a_click(), Entry(Kind.GARBAGE, ""), a_click(Kind.MISPLACED, "e2"))
    ledger.entries[2].place = (0, 0)

    found = books(
        ledger,
        Logged((0, 0), 2),
        Logged((1, 0), 0),
        Logged((1, 1), 1),
        Logged((1, 2), 2, copied=True),
        Logged((1, 3), 2, copied=True),
    )

    assert found.misses == []
    assert dict(found.outcomes[0]) == {"rekeyed": 1}
    assert dict(found.outcomes[1]) == {"folded": 2, "dead_lettered": 1, "duplicate": 1}
    assert found.newest == {"ada": (1, 3)}
    assert found.letters == {1}


def test_a_record_that_is_not_where_it_was_delivered_is_a_miss() -> None:
    """The broker said that it has it."""
    ledger = a_ledger(a_click(), a_click(event_id="e2"))

    found = books(ledger, Logged((1, 0), 0))

    assert found.misses == ["record 1 was delivered at (1, 1) and is not there"]


def test_a_misplaced_record_without_a_copy_is_a_miss() -> None:
    """It was acknowledged, and its user never got it."""
    ledger = a_ledger(a_click(), a_click(Kind.MISPLACED, "e2"))
    ledger.entries[1].place = (0, 0)

    found = books(ledger, Logged((0, 0), 1), Logged((1, 0), 0))

    assert found.misses == ["record 1 has no copy"]


def test_an_event_waits_until_a_slate_has_it_or_a_later_one() -> None:
    """The slate may be faster than the broker's report, and must then count all the same."""
    waiting = Waiting()
    first, second, third = (
        Entry(Kind.PLAIN, "ada", sent_s=float(n), place=(0, n)) for n in range(3)
    )
    waiting.delivered(first)
    waiting.delivered(second)
    assert (waiting.oldest_s(), len(waiting)) == (0.0, 2)

    waiting.answered(Slate("ada", {"state": {"partition": 0, "offset": 0}}, 0.0, None))
    assert (waiting.oldest_s(), len(waiting)) == (1.0, 1)

    waiting.answered(Slate("ada", {"state": {"partition": 0, "offset": 2}}, 0.0, None))
    waiting.delivered(third)
    assert (waiting.oldest_s(), len(waiting)) == (None, 0)
