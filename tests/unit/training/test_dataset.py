"""What training sees is what serving saw; and a long log takes no more memory than a short one."""

import json
import subprocess
import sys
from collections import Counter
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from services.training.archived import arrival
from services.training.arrivals import ARRIVAL, Arrivals, ItemNames, Source, UnreadableLog
from services.training.dataset import Dataset, write_dataset
from services.training.examples import examples, sequences
from stream.decode import Accepted
from stream.events import Event
from stream.fold import take_in
from stream.history import LIMITS, Outcome, UserRow
from stream.records import Record
from tests.builders import T0_MS, an_event
from tests.tiny_model import TINY

# Shrinking takes minutes and makes a counterexample of this kind little clearer.
UNSHRUNK = (Phase.explicit, Phase.reuse, Phase.generate)
KINDS = ("click", "view", "purchase", "refund", "dislike", "impression", "search", "checkout")


def a_source(events: list[Event], chunk: int = 7) -> Source:
    """*events* as the worker accepted them, in this order."""
    names = ItemNames()
    rows = [arrival(Accepted(Record(0, n, 0, None, None), e), names) for n, e in enumerate(events)]
    made: Arrivals = np.array(rows, ARRIVAL)
    chunks = iter([made[at : at + chunk] for at in range(0, len(made), chunk)])
    return Source(chunks, names, len(events), by_time=False, path=Path("archive"))


events = st.lists(  # after one action at least: without any there is no training set
    st.builds(
        lambda number, user, kind, ms: an_event(
            event_id=f"n{number}",
            user_id=f"u{user}",
            event_type=kind,
            at_ms=T0_MS + ms * 700,
            item_id=f"i{number % 5}",
            query="q",
            price=number + 0.5,
            context={"page": "home", "device": "mobile"},
        ),
        number=st.integers(0, 25),  # few, so that ids come again after they were evicted
        user=st.integers(0, 1),
        kind=st.sampled_from(KINDS),
        ms=st.integers(0, 30),
    ),
    min_size=25,
    max_size=90,
).map(lambda happened: [an_event(user_id="u9"), *happened])


def follows_out_of_order(happened: list[Event], offset: int) -> bool:
    """Whether the user's next action after *offset* is older than one that came before it."""
    user_id = happened[offset].user_id
    mine = [(n, e.timestamp_ms) for n, e in enumerate(happened) if e.user_id == user_id]
    before = max(time_ms for n, time_ms in mine if n <= offset)
    return any(n > offset and time_ms < before for n, time_ms in mine)


@given(events)
@settings(max_examples=60, deadline=None, phases=UNSHRUNK)
@patch.dict(LIMITS, dict.fromkeys(LIMITS, 3))  # so short that events are evicted, and late
def test_at_every_moment_training_sees_what_serving_saw(happened: list[Event]):
    """Duplicates, late and disordered events, evictions: value by value, after every record."""
    rows: dict[str, UserRow] = {}
    expected: Counter[Outcome] = Counter()
    with TemporaryDirectory() as directory:
        dataset = write_dataset(a_source(happened), Path(directory), shard_events=20)
        for offset, event in enumerate(happened):
            row = rows.setdefault(event.user_id, UserRow())
            outcome, _ = take_in(row, event, partition=0, offset=offset)
            expected[outcome] += 1
            for length in (2, 3):
                served = row.ranker_input(length)
                trained = dataset.history(event.user_id, offset, length)
                if trained is None:
                    assert follows_out_of_order(happened, offset)
                    continue
                for name in served.__slots__:
                    one, other = getattr(served, name), getattr(trained, name)
                    assert one.dtype == other.dtype and one.tolist() == other.tolist(), name

    assert dataset.outcomes == {one.name.lower(): count for one, count in expected.items()}


@given(events)
@settings(max_examples=40, deadline=None, phases=UNSHRUNK)
def test_a_target_is_what_came_next_and_comes_once(happened: list[Event]):
    """An event that arrived late was never the next one; what was copied is not learnt twice."""
    with TemporaryDirectory() as directory:
        dataset = write_dataset(a_source(happened), Path(directory), shard_events=20)
        shards = list(dataset.shards())
    fresh = sum(int(shard.fresh.sum()) for shard in shards)
    for shard in shards:
        indices = np.arange(1, len(dataset.item_ids) + 1)
        found = examples(sequences(shard.log, indices, shard.fresh), TINY)
        targets = np.flatnonzero(found.weights > 0)
        assert found.found.fresh[targets].all()
    in_order = 0
    newest: dict[str, int] = {}
    known: set[tuple[str, str]] = set()
    for event in happened:
        if (event.user_id, event.event_id) in known:
            continue
        known.add((event.user_id, event.event_id))
        if event.event_type in ("search", "impression"):
            continue
        in_order += event.timestamp_ms >= newest.get(event.user_id, 0)
        newest[event.user_id] = max(event.timestamp_ms, newest.get(event.user_id, 0))
    assert fresh == in_order


def test_out_of_order_events_are_history_from_then_on(tmp_path: Path):
    """The phone was offline: its clicks lie before, but were not known when c was clicked."""
    clicks = [
        an_event(user_id="u", item_id=item, at_ms=T0_MS + minute * 60_000)
        for item, minute in (("b", 2), ("c", 3), ("a", 1), ("d", 4))
    ]

    dataset = write_dataset(a_source(clicks), tmp_path)

    (shard,) = dataset.shards()
    runs = [
        [dataset.item_ids[item] for item in shard.log.items[shard.log.users == run]]
        for run in (0, 1)
    ]
    assert runs == [["b", "c"], ["a", "b", "c", "d"]]
    assert shard.fresh.tolist() == [True, True, False, False, False, True]
    assert [dataset.item_ids[item] for item in dataset.newest(10).items] == ["a", "b", "c", "d"]


def test_the_newest_actions_are_each_there_once(tmp_path: Path):
    """What is judged on is read into memory, so it must have a bound."""
    happened = [an_event(user_id=f"u{n % 9}", at_ms=T0_MS + n * 1000) for n in range(900)]
    dataset = write_dataset(a_source(happened), tmp_path, shard_events=100)

    newest = dataset.newest(300)

    assert 290 <= len(newest) <= 300
    assert newest.times_ms.tolist() == [e.timestamp_ms for e in happened[-len(newest) :]]


def test_an_unfinished_training_set_is_none(tmp_path: Path):
    """A run that was killed while it read must read again."""

    def breaks() -> Any:
        yield np.zeros(3, ARRIVAL)
        raise UnreadableLog("line 7: not JSON")

    source = Source(breaks(), ItemNames({0: "x"}), 3, by_time=True, path=Path("log"))
    with pytest.raises(UnreadableLog, match="line 7"):
        write_dataset(source, tmp_path)

    with pytest.raises(UnreadableLog, match="no finished training set"):
        Dataset(tmp_path)


MEASURED = """
import json, resource, sys
from pathlib import Path
import numpy as np
from services.training.arrivals import ARRIVAL, ItemNames, Source
from services.training.dataset import write_dataset
from services.training.shards import Shards
from services.training.trainer import fit, new_network
from stream.history import ENTRY
from tests.tiny_model import TINY

events, directory = int(sys.argv[1]), Path(sys.argv[2])
names = ItemNames({item: str(item) for item in range(1, 101)})

def chunks():
    rng = np.random.default_rng(1)
    for first in range(0, events, 20_000):
        made = np.zeros(20_000, ARRIVAL)
        made["user"] = rng.integers(0, events // 10, 20_000)  # more users, not longer histories
        made["offset"] = made["event_key"] = np.arange(first, first + 20_000)
        made["timestamp_ms"] = 1_470_000_000_000 + made["offset"] * 1000
        made["item_key"], made["event_type"] = rng.integers(1, 101, 20_000), 3
        yield made

dataset = write_dataset(Source(chunks(), names, events, False, directory), directory,
                        shard_events=20_000)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
shards = Shards(dataset, np.arange(1, 101), TINY, until_ms=dataset.last_ms)
batches = sum(1 for shard in shards for _ in range(len(shard)))
print(json.dumps({"written_kib": before,
                  "read_kib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss,
                  "shards": len(shards), "windows": batches}))
"""


def test_memory_does_not_grow_with_the_log(tmp_path: Path):
    """Four times the log, the same peak: a year of events is trained on the same machine."""
    peaks = []
    for events in (60_000, 240_000):
        done = subprocess.run(
            [sys.executable, "-c", MEASURED, str(events), tmp_path / str(events)],
            env={"PYTHONPATH": str(Path.cwd()), "OMP_NUM_THREADS": "1"},
            capture_output=True,
            check=True,
        )
        peaks.append(json.loads(done.stdout))

    short, long = peaks
    assert (short["shards"], long["shards"]) == (3, 12)
    assert long["windows"] > 3.5 * short["windows"]
    for when in ("written_kib", "read_kib"):
        assert long[when] - short[when] < 6_000, peaks  # the four-fold log is 16 MB more
