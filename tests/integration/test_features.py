"""Rows in the real store: written by us, read by us, by Feast itself and by people."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from confluent_kafka import Producer

from features import redis_store
from features.store import AsyncRows, FeatureRows, open_store
from services import states
from services.cli import main
from services.settings import Settings
from stream.fold import take_in
from stream.history import Outcome, UserRow
from stream.keys import item_key
from stream.marks import Mark
from stream.state import Replacement, StateMoved
from tests.builders import an_event, new
from tests.integration.support import Servers


@pytest.fixture
def project(prefix: str) -> str:
    return states.project(Settings(prefix=prefix), 1)


@pytest.fixture
def rows(stack: Servers, project: str, tmp_path: Path) -> Iterator[FeatureRows[str]]:
    rows = FeatureRows.open(stack.redis, tmp_path / "feast" / "registry.db", project)
    yield rows
    rows.close()


@pytest.fixture
async def on_loop(rows: FeatureRows[str]) -> AsyncIterator[AsyncRows[str]]:
    on_loop = AsyncRows(rows)
    yield on_loop
    await on_loop.aclose()


@pytest.mark.parametrize("user_id", ["ada", "ü𝄞", "a b\x00c", "x" * 256, "u:{1}*"])
def test_a_row_comes_back_as_it_was_written(rows: FeatureRows[str], user_id: str) -> None:
    """Any bytes, under any id that an event may carry."""
    row = bytes(range(256)) * 18

    rows.write_rows({user_id: new(row), "another": new(b"")})

    assert rows.read(["nobody", user_id, "another"]) == [None, row, b""]


def test_a_later_write_wins_whatever_its_timestamp(rows: FeatureRows[str]) -> None:
    """Feast drops a write that is not newer; with ties and late events that would lose state."""
    rows.write_rows({"ada": Replacement(b"first", "", "0:7")})
    rows.write_rows({"ada": Replacement(b"second", "0:7", "0:8")})

    assert rows.read(["ada"]) == [b"second"]


def test_rows_and_marks_are_read_together(rows: FeatureRows[str]) -> None:
    """One round trip a micro-batch."""
    rows.write_rows({"ada": new(b"row")})
    rows.write_marks({0: new(b"mark 0"), 7: new(b"mark 7")})

    assert rows.read_with_marks(["ada", "bob"], [7, 3]) == ([b"row", None], [b"mark 7", None])
    assert rows.read_marks([0]) == [b"mark 0"]


def test_a_row_is_replaced_only_if_it_is_what_was_read(rows: FeatureRows[str]) -> None:
    """A worker that was paused wakes up with an old row in its hands."""
    rows.write_rows({"ada": Replacement(b"first", "", "0:7")})
    rows.write_rows({"ada": Replacement(b"second", "0:7", "0:8")})

    with pytest.raises(StateMoved, match="_applied:user_row"):
        rows.write_rows({"ada": Replacement(b"old", "0:7", "0:9"), "bob": new(b"row")})

    assert rows.read(["ada", "bob"]) == [b"second", None]


def test_rows_are_replaced_only_under_the_marks_that_were_read(rows: FeatureRows[str]) -> None:
    """Whoever has moved the mark owns the partition, whichever users it has touched."""
    rows.write_marks({3: Replacement(b"mark", "", "8")})

    with pytest.raises(StateMoved, match="_applied:partition_mark"):
        rows.write_rows({"ada": new(b"row")}, {3: "7"})
    rows.write_rows({"ada": new(b"row")}, {3: "8", 4: ""})

    assert rows.read(["ada"]) == [b"row"]


def test_a_write_whose_answer_was_lost_is_written_again(rows: FeatureRows[str]) -> None:
    """The client repeats a call by itself; it must not take its own rows for another's."""
    for _ in range(2):
        rows.write_rows({"ada": new(b"row"), "bob": new(b"row")})

    assert rows.read(["ada"]) == [b"row"]


def test_nothing_to_read_or_write_is_not_an_error(rows: FeatureRows[str]) -> None:
    """A batch may consist of dead letters only."""
    rows.write_rows({})
    rows.write_marks({})

    assert rows.read([]) == []
    assert rows.read_with_marks([], [1]) == ([], [None])


async def test_the_event_loop_reads_and_writes_the_same_rows(
    rows: FeatureRows[str], on_loop: AsyncRows[str]
) -> None:
    """The worker's way and that of every other command."""
    await on_loop.write_rows({"ada": new(b"row"), "bob": new(b"")}, {7: ""})
    await on_loop.write_marks({7: new(b"mark 7")})
    await on_loop.write_rows({}, {7: "0:7"})

    expected = [None, b"", b"row", None], [b"mark 7", None]
    assert await on_loop.read(["nobody", "bob", "ada", "none"], [7, 3]) == expected
    assert rows.read_with_marks(["nobody", "bob", "ada", "none"], [7, 3]) == expected
    assert await on_loop.read([], []) == ([], [])


async def test_the_event_loop_replaces_only_what_was_read(on_loop: AsyncRows[str]) -> None:
    """All of it or nothing; the same call once more is content."""
    for _ in range(2):
        await on_loop.write_rows({"ada": Replacement(b"row", "", "0:8")}, {})
    await on_loop.write_marks({3: Replacement(b"mark", "", "8")})

    with pytest.raises(StateMoved, match=r"_applied:user_row is \"0:8\", not \"0:7\""):
        await on_loop.write_rows({"bob": new(b"row"), "ada": Replacement(b"", "0:7", "0:9")}, {})
    with pytest.raises(StateMoved, match="_applied:partition_mark"):
        await on_loop.write_rows({"bob": new(b"row")}, {3: "7"})
    with pytest.raises(StateMoved, match="_applied:partition_mark"):
        await on_loop.write_marks({3: Replacement(b"old", "7", "9")})

    assert await on_loop.read(["ada", "bob"], [3]) == ([b"row", None], [b"mark"])


async def test_many_keys_are_read_in_several_calls(
    rows: FeatureRows[str], on_loop: AsyncRows[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Redis serves nobody else during a script. Their order does not tell."""
    monkeypatch.setattr(redis_store, "READ_AT_ONCE", 3)
    users = [f"u{n}" for n in range(8)]
    rows.write_rows({user: new(user.encode()) for user in users[::2]})
    rows.write_marks({2: new(b"mark 2")})

    expected = [None if n % 2 else b"u%d" % n for n in range(8)], [None, b"mark 2"]
    assert rows.read_with_marks(users, [1, 2]) == expected
    assert await on_loop.read(users, [1, 2]) == expected


async def test_calls_of_many_tasks_at_once_do_not_mix(on_loop: AsyncRows[str]) -> None:
    """Two lanes, the owner of items, what is trending, and the readiness check."""
    users = [f"u{n}" for n in range(20)]
    await on_loop.write_rows({user: new(user.encode()) for user in users}, {})

    found = await asyncio.gather(*(on_loop.read([user], []) for user in users * 5))

    assert [row for (row,), _ in found] == [user.encode() for user in users * 5]


def test_two_projects_share_nothing(stack: Servers, rows: FeatureRows[str], tmp_path: Path) -> None:
    """Two shops on one Redis."""
    other = FeatureRows.open(stack.redis, tmp_path / "feast" / "registry.db", "other")
    rows.write_rows({"ada": new(b"mine")})

    assert other.read(["ada"]) == [None]


def test_feast_itself_serves_our_rows(
    stack: Servers, rows: FeatureRows[str], project: str, tmp_path: Path
) -> None:
    """Whoever knows Feast needs to know nothing of us."""
    row = UserRow()
    take_in(row, an_event(item_id="hat"), partition=3, offset=7)
    rows.write_rows({"ada": new(row.to_bytes())})
    store = open_store(stack.redis, tmp_path / "feast" / "registry.db", project)

    actual = store.get_online_features(
        features=["user_row:row", "user_interactions:item_keys", "user_interactions:event_types"],
        entity_rows=[{"user_id": "ada"}, {"user_id": "nobody"}],
    ).to_dict()

    assert actual == {
        "user_id": ["ada", "nobody"],
        "row": [row.to_bytes(), None],
        "item_keys": [[item_key("hat")], []],
        "event_types": [["click"], []],
    }


async def test_processes_that_start_together_share_a_registry(
    stack: Servers, project: str, tmp_path: Path
) -> None:
    """Feast writes its registry anew at each start: one of them had read half of it."""
    registry = tmp_path / "feast" / "registry.db"

    opened = await asyncio.gather(
        *(asyncio.to_thread(FeatureRows.open, stack.redis, registry, project) for _ in range(4))
    )

    opened[0].write_rows({"ada": new(b"row")})
    assert [rows.read(["ada"]) for rows in opened] == [[b"row"]] * 4


@pytest.fixture
def headrace(environment: dict[str, str]) -> Callable[..., Result]:
    """Runs a command in this process: `import feast`, which takes seconds, has happened here."""
    return lambda *arguments: CliRunner().invoke(main, arguments, env=environment)


def test_the_command_shows_a_row_with_the_catalogues_names(
    stack: Servers, rows: FeatureRows[str], headrace: Callable[..., Result], prefix: str
) -> None:
    """Item keys mean nothing to a person."""
    row = UserRow()
    take_in(row, an_event(item_id="hat", price=12.5), partition=3, offset=7)
    rows.write_rows({"ada": new(row.to_bytes())})
    producer = Producer({"bootstrap.servers": stack.kafka})
    producer.produce(f"{prefix}items.v1", key=b"hat", value=b'{"item_id":"hat","title":"Top hat"}')
    assert producer.flush(10) == 0

    shown = headrace("features", "ada")
    actual: dict[str, Any] = json.loads(headrace("features", "ada", "--json").stdout)

    assert shown.exit_code == 0
    assert "Top hat" in shown.output and "12.50" in shown.output
    assert actual["applied"] == {"partition": 3, "offset": 7}
    (entry,) = actual["lists"]["interactions"]
    assert (entry["item_id"], entry["event_type"], entry["price"]) == ("hat", "click", 12.5)


def test_the_command_says_in_one_line_that_nothing_is_known(
    headrace: Callable[..., Result],
) -> None:
    """A typing mistake in an id is the usual case."""
    unknown = headrace("features", "nobody")

    assert unknown.exit_code == 2
    (line,) = unknown.output.strip().splitlines()
    assert line.startswith("Error: nothing is kept about 'nobody'.")


def test_the_command_says_in_one_line_that_redis_is_away(
    headrace: Callable[..., Result], environment: dict[str, str]
) -> None:
    """With the next step, and without a traceback."""
    environment["HEADRACE_REDIS_ADDRESS"] = "127.0.0.1:1,password=hush"

    away = headrace("features", "ada")

    assert away.exit_code == 2
    (line,) = away.output.strip().splitlines()
    assert line.startswith("Error: Redis at 127.0.0.1:1 does not answer")
    assert "hush" not in line


def test_the_counters_add_up_over_partitions(
    rows: FeatureRows[str], headrace: Callable[..., Result]
) -> None:
    """Events in = folded + duplicate + late + rekeyed + dead-lettered, for everyone to see."""
    first, second = Mark(), Mark()
    for offset in range(3):
        first.settle(offset, Outcome.FOLDED)
    second.settle(0, Outcome.DEAD_LETTERED)
    rows.write_marks({0: new(first.to_bytes()), 5: new(second.to_bytes())})

    counters = headrace("features", "--counters", "--json")

    assert counters.exit_code == 0
    actual = json.loads(counters.stdout)
    assert sum(actual["total"].values()) == 4
    assert actual["total"]["dead_lettered"] == 1
    assert actual["partitions"]["0"]["next_offset"] == 3
