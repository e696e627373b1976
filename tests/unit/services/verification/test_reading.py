"""Which records are read, from where, and in which order: also when partitions have been added."""

import random
from collections import defaultdict
from datetime import UTC, datetime
from pathlib import Path

from services.archive.reader import Segment
from services.rebuilding import Folding
from services.states import Layout, State
from services.verification.placement import Read, decoded_in_order, families
from services.verification.recorded import Stretch, stretches
from stream.decode import Accepted, Misplaced
from stream.keys import partition_of
from stream.marks import Mark
from stream.records import Record
from tests.builders import T0_MS, a_record

MOMENT = datetime(2016, 8, 1, tzinfo=UTC)


def a_state(partitions: int, *earlier: Layout) -> State:
    return State(
        number=2, partitions=partitions, earlier=earlier, announced_at=MOMENT, reason="test"
    )


def test_the_archive_is_read_first_and_the_log_where_it_has_nothing() -> None:
    """A hole between two files may be an offset that Kafka itself took: the log knows."""
    one, two = Path("one"), Path("two")
    files = [Segment(0, 9, one), Segment(12, 20, two)]

    whole = list(stretches(files, 0, 30))
    part = list(stretches(files, 5, 15))

    assert whole == [
        Stretch(0, 10, one),
        Stretch(10, 12),
        Stretch(12, 21, two),
        Stretch(21, 30),
    ]
    assert part == [Stretch(5, 10, one), Stretch(10, 12), Stretch(12, 15, two)]
    assert list(stretches([], 3, 3)) == []


def test_no_user_ever_leaves_a_family() -> None:
    """So a family can be folded without the others."""
    grown = a_state(12, Layout(partitions=8, until=(0,) * 12))
    found = families(grown)

    assert sorted(p for family in found for p in family) == list(range(12))
    for number in range(200):
        key = f"u{number}".encode()
        places = {partition_of(key, count) for count in (8, 12)}
        assert sum(places <= set(family) for family in found) == 1
    assert families(a_state(8)) == [(p,) for p in range(8)]


def read_from(log: dict[int, list[Record]]) -> Read:
    return lambda partition, first, end: [log[partition][first:end]]


def grown_log(rng: random.Random) -> tuple[dict[int, list[Record]], dict[int, int]]:
    """Four partitions, and later eight; some producers know early, some late. And where it was."""
    log: defaultdict[int, list[Record]] = defaultdict(list)
    until: dict[int, int] = {}
    for number in range(600):
        if number == 300:
            until = {p: len(log[p]) for p in range(8)}
        user_id = f"u{rng.randrange(20)}"
        count = rng.choice((4, 8)) if 250 < number < 350 else 4 if number < 300 else 8
        partition = partition_of(user_id.encode(), count)
        record = a_record(len(log[partition]), user_id=user_id, item_id=f"i{number}")
        log[partition].append(
            record._replace(partition=partition, timestamp_ms=T0_MS * 2 + number // 3)
        )
    return log, until


def test_each_record_is_judged_by_the_number_of_partitions_of_its_time() -> None:
    """A worker of four partitions has sent on what lay on a fifth; one of eight has not."""
    log, until = grown_log(random.Random(1))
    state = a_state(8, Layout(partitions=4, until=tuple(until[p] for p in range(8))))

    for family in families(state):
        begin, end = dict.fromkeys(family, 0), {p: len(log[p]) for p in family}
        for decoded in decoded_in_order(read_from(log), state, begin, end, max_ahead_ms=0):
            for one in decoded:
                assert isinstance(one, Accepted | Misplaced)
                record = one.record
                count = 4 if record.offset < until[record.partition] else 8
                belongs = partition_of(one.event.user_id.encode(), count) == record.partition
                assert isinstance(one, Accepted) == belongs


def test_reading_on_gives_the_same_order_as_reading_in_one_go() -> None:
    """Verification reads on while rows move; a rebuild stops where the workers have come to."""
    log, until = grown_log(random.Random(2))
    state = a_state(8, Layout(partitions=4, until=tuple(until[p] for p in range(8))))
    family = families(state)[1]
    begin, end = dict.fromkeys(family, 0), {p: len(log[p]) for p in family}

    once, twice = ({p: Mark() for p in family} for _ in range(2))
    whole, parts = Folding(once), Folding(twice)
    for decoded in decoded_in_order(read_from(log), state, begin, end, max_ahead_ms=0):
        whole.take(decoded)
    rebuilt_at = {p: until[p] for p in family}
    for first, stop in ((begin, rebuilt_at), (rebuilt_at, end)):
        for decoded in decoded_in_order(read_from(log), state, first, stop, max_ahead_ms=0):
            parts.take(decoded)

    def lists(folding: Folding) -> dict[str, bytes]:
        for row in folding.rows.values():
            row.settle(10**9)
        return {user: row.to_bytes() for user, row in folding.rows.items()}

    assert lists(whole) == lists(parts)
    assert {p: mark.counts for p, mark in once.items()} == {p: m.counts for p, m in twice.items()}
