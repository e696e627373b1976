"""A verification that finds nothing is worth something only if it finds what is there."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from services.verification.items import ItemsCheck
from services.verification.report import Report
from services.verification.signals import SignalsCheck
from services.verification.spill import SpilledSignals
from services.verification.users import UsersCheck
from stream.history import LIMITS, Outcome, UserRow
from stream.item_row import ItemRow
from stream.records import Record
from stream.signals import DELTA, from_bytes, to_bytes
from stream.topics import SIGNAL_PARTITIONS
from tests.unit.services.verification.shop import PARTITION, Shop, decoded, records

LOG = records(600)


@pytest.fixture
def shop() -> Shop:
    return Shop(LOG, settled=500)


def check_users(shop: Shop, *, until: int = 600) -> Report:
    report = Report(show_ids=True)
    check = UsersCheck(shop.read, {PARTITION: shop.mark}, report)
    for at in range(0, until, 50):
        check.take(decoded(LOG[at : at + 50]))
    check.finish()
    return report


def check_items(shop: Shop, rows: dict[int, dict[int, bytes]]) -> Report:
    report = Report()
    for partition in range(SIGNAL_PARTITIONS):
        log = shop.signals_of(partition)
        check = ItemsCheck(
            lambda keys, kept=rows[partition]: [kept.get(key) for key in keys],  # type: ignore[misc]
            partition,
            len(log),
            report,
        )
        if log:
            check.take(log)
        check.finish()
    return report


def check_signals(shop: Shop, published: list[Record], directory: Path) -> Report:
    report = Report()
    found = SpilledSignals(directory)
    for record in published:
        found.add(from_bytes(record.value or b""))
    found.flush()
    signals = SignalsCheck(found, {PARTITION: shop.mark}, report)
    users = UsersCheck(shop.read, {PARTITION: shop.mark}, report, signals.expect)
    users.take(decoded(LOG))
    users.finish()
    signals.finish()
    return report


def items(shop: Shop) -> dict[int, dict[int, bytes]]:
    return {partition: shop.items(partition) for partition in range(SIGNAL_PARTITIONS)}


def test_what_the_worker_made_is_exact(shop: Shop, tmp_path: Path) -> None:
    """Rows, counters, signals and items, with every kind of record in the log."""
    users, signals = check_users(shop), check_signals(shop, shop.signals, tmp_path)
    of_items = check_items(shop, items(shop))

    assert [users.differences, signals.differences, of_items.differences] == [[], [], []]
    assert users.counts["users compared"] == len(shop.rows)
    assert min(shop.mark.counts) > 0, "a kind of record is missing from the log"
    assert signals.counts["signals compared"] > 500
    assert of_items.counts["item rows compared"] == 9


@pytest.mark.parametrize("place", ["first", "last"])
@pytest.mark.parametrize("name", [name for name in LIMITS if name != "dislikes"])
def test_any_byte_of_a_list_counts(shop: Shop, name: str, place: str) -> None:
    """The lists are what the model reads."""
    user, row = next(
        (user, row)
        for user, raw in shop.rows.items()
        if (row := UserRow.from_bytes(raw)).packed[name]
    )
    broken = bytearray(row.packed[name])
    broken[0 if place == "first" else -1] ^= 1
    shop.rows[user] = replace(row, packed={**row.packed, name: bytes(broken)}).to_bytes()

    (found,) = check_users(shop).differences

    assert (found.what, found.subject) == ("user row", user)
    assert found.where.startswith(f"{name}[")


def test_an_eviction_time_counts(shop: Shop) -> None:
    """It decides what is late."""
    user = min(shop.rows)
    row = UserRow.from_bytes(shop.rows[user])
    shop.rows[user] = replace(row, evicted_ms={**row.evicted_ms, "searches": 7}).to_bytes()

    (found,) = check_users(shop).differences

    assert (found.where, found.stored) == ("evicted_ms.searches", "7")


def test_a_counter_counts(shop: Shop) -> None:
    """Two errors of which one makes up for the other are two."""
    shop.mark.counts[Outcome.LATE] += 1
    shop.mark.counts[Outcome.FOLDED] -= 1

    found = check_users(shop).differences

    assert [one.where for one in found] == ["folded", "late"]


def test_a_lost_event_is_found(shop: Shop) -> None:
    """The row is right as far as it goes; but a mark says that it should go further."""
    user = next(user for user, raw in shop.rows.items() if UserRow.from_bytes(raw).offset > 450)
    shop.rows[user] = Shop(LOG, settled=400).rows[user]

    found = check_users(shop).differences

    assert (found[0].what, found[0].subject, found[0].folded) == ("user row", user, "folded")


@pytest.mark.parametrize("stored", [None, b"", b"\x09\x00" + bytes(300), bytes(7)])
def test_a_row_that_is_gone_or_unreadable_is_found(shop: Shop, stored: bytes | None) -> None:
    """Whatever else is the matter, it ends in one line, and the rest is still compared."""
    user = min(shop.rows)
    if stored is None:
        del shop.rows[user]
    else:
        shop.rows[user] = stored

    report = check_users(shop)

    assert report.differences[0].subject == user
    assert report.counts["users compared"] == len(shop.rows) - (stored is not None)


def test_rows_that_have_moved_on_are_met_where_they_are(shop: Shop) -> None:
    """The system is live: a row may be newer than the mark, and than the log's end as it was."""
    shop.rows |= Shop(LOG, settled=590).rows
    report = Report()
    check = UsersCheck(shop.read, {PARTITION: shop.mark}, report)

    check.take(decoded(LOG[:520]))
    assert check.waiting
    check.take(decoded(LOG[520:]), meet=False)
    check.finish()

    assert (report.differences, check.waiting) == ([], 0)
    assert report.counts["users compared"] == len(shop.rows)


def test_a_row_that_names_a_record_nobody_has_is_found(shop: Shop) -> None:
    """As after a log was cut."""
    user = min(shop.rows)
    row = UserRow.from_bytes(shop.rows[user])
    shop.rows[user] = replace(row, offset=10_000).to_bytes()

    (found,) = check_users(shop).differences

    assert (found.subject, found.stored) == (user, f"{PARTITION}:10000")


def broken_signals(record: Record, field: str, value: Any) -> Record:
    deltas = from_bytes(record.value or b"").copy()
    deltas[field][0] = value
    return record._replace(value=to_bytes(deltas))


def test_signals_that_are_missing_other_or_too_many_are_found(shop: Shop, tmp_path: Path) -> None:
    """What is not on signals.v1 no item will ever know of."""
    first, *rest = shop.signals
    published = {
        "missing": rest,
        "other": [broken_signals(first, "weight", 9.0), *rest],
        "more": [first, *rest, first._replace(value=to_bytes(an_invented_signal()))],
    }

    for name, log in published.items():
        directory = tmp_path / name
        directory.mkdir()
        assert check_signals(shop, log, directory).different, name


def an_invented_signal() -> Any:
    invented = np.zeros(1, DELTA)
    invented["item_key"], invented["source_partition"] = 5, PARTITION
    return invented


def test_repeated_signals_change_nothing(shop: Shop) -> None:
    """A crash publishes a batch's signals again; an item's owner takes them once."""
    rows = items(shop)
    ends = {p: len(shop.signals_of(p)) for p in range(SIGNAL_PARTITIONS)}
    for record in shop.signals[:50]:
        at = ends[record.partition]
        ends[record.partition] += 1
        shop.signals.append(record._replace(offset=at))

    assert check_items(shop, rows).differences == []


def break_count(row: ItemRow) -> None:
    next(iter(row._counts.values()))[0] += 1


def break_neighbour(row: ItemRow) -> None:
    next(n for n in row._neighbours.values() if len(n.weights)).weights[0] *= 1.001


def break_sources(row: ItemRow) -> None:
    row.sources[PARTITION] -= 1


@pytest.mark.parametrize("break_it", [break_count, break_neighbour, break_sources])
def test_a_broken_item_row_is_found(shop: Shop, break_it: Any) -> None:
    """A count, a neighbour's weight, or the mark that keeps repeats out."""
    rows = items(shop)
    partition, key = next((p, key) for p, kept in rows.items() for key in kept)
    row = ItemRow.from_bytes(rows[partition][key])
    break_it(row)
    rows[partition][key] = row.to_bytes()

    (found,) = check_items(shop, rows).differences

    assert found.subject == f"item key {key}"


def test_rounding_is_no_difference(shop: Shop) -> None:
    """Another order of additions may give another last digit; 1e-6 is what is promised."""
    rows = items(shop)
    partition, key = next((p, key) for p, kept in rows.items() for key in kept)
    row = ItemRow.from_bytes(rows[partition][key])
    next(iter(row._counts.values()))[1] *= 1 + 1e-9
    rows[partition][key] = row.to_bytes()

    assert check_items(shop, rows).different == 0


def test_an_item_row_that_is_gone_is_found(shop: Shop) -> None:
    """Its mark says that it was written."""
    rows = items(shop)
    partition, key = next((p, key) for p, kept in rows.items() for key in kept)
    del rows[partition][key]

    (found,) = check_items(shop, rows).differences

    assert found.subject == f"item key {key}"
