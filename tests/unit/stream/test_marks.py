"""How far a partition is settled, and what a mark that is not as it was left means."""

import asyncio

import pytest

from stream.history import Outcome
from stream.marks import LogId, LogMismatch, Mark, OwnMarks, require_no_older, take_over
from stream.state import StateMoved
from tests.fakes import FakeStore

LOG = LogId("cluster", "topic")


def a_mark(next_offset: int = 8, log: LogId = LOG) -> Mark:
    counts = [0] * len(Outcome)
    counts[Outcome.FOLDED] = next_offset
    return Mark(next_offset, counts, log)


def test_a_mark_comes_back_as_it_was_written() -> None:
    """Its counts are all that is known of records whose log has gone."""
    mark = a_mark()
    mark.settle(11, Outcome.LATE)

    assert Mark.from_bytes(mark.to_bytes()) == mark
    assert (mark.next_offset, mark.counts[Outcome.LATE]) == (12, 1)


def test_a_partition_never_read_begins_with_the_log() -> None:
    """Nothing is stored, and nothing may be there when it is written."""
    store, marks = FakeStore(), OwnMarks(LOG)

    assert asyncio.run(take_over(store, marks, [3])) == {3: 0}
    mark = marks.check({3: None})[3]
    mark.settle(0, Outcome.FOLDED)
    (replacement,) = marks.replacements({3: mark}).values()
    assert (replacement.expected, replacement.applied) == ("", "1")
    assert Mark.from_bytes(replacement.value).log == LOG


@pytest.mark.parametrize("stored", [None, a_mark(7), a_mark(9)])
def test_a_mark_that_is_not_as_it_was_left_stops_the_worker(stored: Mark | None) -> None:
    """The store came back older, or empty, or another worker has gone on."""
    marks = OwnMarks(LOG)
    marks.own({3: a_mark(8).to_bytes()})

    with pytest.raises(StateMoved, match="partition 3"):
        marks.check({3: stored and stored.to_bytes()})


@pytest.mark.parametrize("stored", [a_mark(8), a_mark(9)])
def test_a_mark_that_has_moved_on_is_not_older(stored: Mark) -> None:
    """A batch is just about to be settled, or the partition has gone to another."""
    store, marks = FakeStore(), OwnMarks(LOG)
    marks.own({3: a_mark(8).to_bytes(), 4: None})
    store.marks = {3: stored.to_bytes()}

    asyncio.run(require_no_older(store, marks))


@pytest.mark.parametrize("stored", [{}, {3: a_mark(7).to_bytes()}])
def test_a_store_that_is_older_is_noticed_without_a_record(stored: dict[int, bytes]) -> None:
    """At night, a replica takes over that lacks the last events of the day."""
    store, marks = FakeStore(), OwnMarks(LOG)
    marks.own({3: a_mark(8).to_bytes(), 4: None})
    store.marks = stored

    with pytest.raises(StateMoved, match="left it at 8"):
        asyncio.run(require_no_older(store, marks))


def test_a_partition_that_has_gone_to_another_is_not_read() -> None:
    """Records that were fetched before a rebalance must not be folded after it."""
    marks = OwnMarks(LOG)
    marks.own({3: None})
    marks.own({4: None})

    with pytest.raises(StateMoved, match="not its own"):
        marks.check({3: None})


def test_what_was_written_is_what_the_next_batch_must_find() -> None:
    """Else the worker would stop at its own mark."""
    marks = OwnMarks(LOG)
    marks.own({3: None})
    marks.wrote({3: a_mark(5)})

    assert marks.check({3: a_mark(5).to_bytes()}) == {3: a_mark(5)}
    assert marks.expected([3]) == {3: "5"}


@pytest.mark.parametrize("log", [LogId("another", "topic"), LogId("cluster", "made again")])
def test_a_mark_of_another_log_is_refused(log: LogId) -> None:
    """Offsets of a topic that was made again mean other events."""
    marks = OwnMarks(LOG)

    with pytest.raises(LogMismatch, match="another log"):
        marks.own({3: a_mark(log=log).to_bytes()})
