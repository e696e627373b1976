"""``headrace features``: what is kept of a user or an item, and how far each partition is."""

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click
import numpy as np
import orjson
from confluent_kafka import KafkaException
from rich.console import Console
from rich.table import Table

from services import states
from services.connection import connect
from services.display.item_statistics import (
    item_as_dict,
    show_item,
    show_trending,
    trending_as_dicts,
)
from services.display.rendering import safe_text
from services.display.titles import Titles
from services.errors import CommandFailed
from services.kafka.follow import Follower, NotCaughtUp
from services.settings import Settings
from stream import topics
from stream.event_types import EventType
from stream.history import LIMITS, Outcome, UnknownRowFormat, UserRow
from stream.item_row import ItemRow, UnknownItemFormat
from stream.keys import item_key
from stream.marks import Mark
from stream.trending import Trending, UnknownTrendingFormat

CATALOGUE_TIMEOUT_S = 15.0


@click.command()
@click.argument("user", required=False)
@click.option("--item", metavar="ITEM", help="Instead: the statistics of an item.")
@click.option(
    "--trending",
    metavar="[CATEGORY]",
    is_flag=False,
    flag_value="",
    help="Instead: the items visited most, overall or in an outermost category.",
)
@click.option("--counters", is_flag=True, help="Instead: what became of every event so far.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object.")
@click.option("--items", default=20, show_default=True, type=click.IntRange(1))
@click.option("--data-dir", type=click.Path(file_okay=False, path_type=Path))
def features(
    user: str | None,
    item: str | None,
    trending: str | None,
    counters: bool,
    as_json: bool,
    items: int,
    data_dir: Path | None,
) -> None:
    """
    Show what is kept about USER: each list, newest first.

    With --counters, what became of the events of each partition, as counted beside the rows:
    folded + duplicate + late + rekeyed + dead_lettered is all that was read.
    """
    if [user is not None, item is not None, trending is not None, counters].count(True) != 1:
        raise click.UsageError("name a USER, or ask for --item, --trending or --counters.")
    settings = connect(Settings, data_dir=data_dir)
    if user is not None:
        _user(settings, user, items, as_json=as_json)
    elif item is not None:
        _item(settings, item, items, as_json=as_json)
    elif trending is not None:
        _trending(settings, trending or None, items, as_json=as_json)
    else:
        _show_counters(_read_marks(settings), as_json=as_json)


def _user(settings: Settings, user: str, items: int, *, as_json: bool) -> None:
    row, names = _read_row(settings, user), _names(settings)
    if as_json:
        click.echo(orjson.dumps(as_dict(user, row, names)))
    else:
        _show_row(user, row, names, items)


def _item(settings: Settings, item: str, items: int, *, as_json: bool) -> None:
    (raw,) = _read_other(settings, "item_row", [item_key(item)])
    try:
        row, names = ItemRow.from_bytes(raw), _names(settings)
    except UnknownItemFormat as error:
        raise CommandFailed(f"{error}. {_SAME_VERSION}") from error
    if raw is None:
        raise CommandFailed(
            f"nothing is known about {safe_text(item)!r}: no event named it. `headrace features "
            "--trending` shows items that events named."
        )
    if as_json:
        click.echo(orjson.dumps(item_as_dict(item, row, names)))
    else:
        show_item(item, row, names, items)


def _trending(settings: Settings, category: str | None, items: int, *, as_json: bool) -> None:
    stored = _read_other(settings, "trending", range(topics.SIGNAL_PARTITIONS))
    try:
        lists = Trending.merged(map(Trending.from_bytes, stored))
    except UnknownTrendingFormat as error:
        raise CommandFailed(f"{error}. {_SAME_VERSION}") from error
    if category is not None and category not in lists.categories:
        known = ", ".join(safe_text(name) for name in sorted(lists.categories)) or "none yet"
        raise CommandFailed(f"no list of {safe_text(category)!r}. Categories: {known}.")
    best, now_ms = lists.best(items, category), round(datetime.now(UTC).timestamp() * 1000)
    names = _names(settings)
    if as_json:
        click.echo(orjson.dumps(trending_as_dicts(best, names, now_ms)))
    else:
        show_trending(best, names, now_ms)


_SAME_VERSION = "Use the version of headrace that the workers run."


class ItemNames:
    """What the catalogue calls the item keys of a row."""

    def __init__(self) -> None:
        self._ids: dict[int, str] = {}
        self._titles = Titles()

    def take(self, key: bytes, value: bytes | None, partition: int, offset: int) -> None:
        """Take in one record of `items.v1`; a deleted item keeps its id, not its title."""
        item_id = key.decode(errors="replace")
        self._ids[item_key(item_id)] = item_id
        self._titles.take(key, value, partition, offset)

    def id_of(self, key: int) -> str | None:
        """The item_id, or None if the catalogue never had this item."""
        return self._ids.get(key)

    def title_of(self, key: int) -> str:
        """The title, else the id, else the key; safe to print."""
        item_id = self._ids.get(key)
        return self._titles.of(item_id) if item_id is not None else f"(key {key})"


def as_dict(user: str, row: UserRow, names: ItemNames) -> dict[str, Any]:
    """The row as JSON shows it, each list newest first."""
    return {
        "user_id": user,
        "applied": {"partition": row.partition, "offset": row.offset},
        "as_of": _instant(row.as_of_ms),
        "lists": {
            name: [
                {**entry, "item_id": names.id_of(entry["item_key"])}
                for entry in _newest_first(row, name)
            ]
            for name in LIMITS
        },
    }


def _newest_first(row: UserRow, name: str) -> Iterator[dict[str, Any]]:
    for entry in row.lists[name][::-1]:
        yield {
            "event_timestamp": _instant(int(entry["timestamp_ms"])),
            "event_type": EventType(entry["event_type"]).name.lower(),
            "item_key": int(entry["item_key"]),
            "price": None if np.isnan(entry["price"]) else round(float(entry["price"]), 2),
            "offset": int(entry["offset"]),
        }


def _show_row(user: str, row: UserRow, names: ItemNames, items: int) -> None:
    console = Console(highlight=False)
    console.print(f"[bold cyan]{_escaped(user)}[/]  newest event {_instant(row.as_of_ms)}")
    console.print(f"[dim]folded up to partition {row.partition}, offset {row.offset}[/]")
    for name, limit in LIMITS.items():
        entries = list(_newest_first(row, name))
        table = Table(title=f"{name}: {len(entries)} of at most {limit}", title_justify="left")
        for column in ("event time (UTC)", "action", "item", "price"):
            table.add_column(column)
        for entry in entries[:items]:
            searched = entry["event_type"] == "search"
            table.add_row(
                entry["event_timestamp"],
                entry["event_type"],
                "" if searched else _escaped(names.title_of(entry["item_key"])),
                "" if entry["price"] is None else f"{entry['price']:.2f}",
            )
        if entries:
            console.print(table)
        if (hidden := len(entries) - items) > 0:
            console.print(f"[dim]… {hidden} older[/]")


def _show_counters(marks: dict[int, Mark], *, as_json: bool) -> None:
    names = [outcome.name.lower() for outcome in Outcome]
    rows = {p: dict(zip(names, mark.counts, strict=True)) for p, mark in marks.items()}
    total = {name: sum(row[name] for row in rows.values()) for name in names}
    if as_json:
        partitions = {str(p): {"next_offset": marks[p].next_offset, **rows[p]} for p in rows}
        click.echo(orjson.dumps({"total": total, "partitions": partitions}))
        return
    table = Table(show_footer=True)
    table.add_column("partition", "all")
    table.add_column("next offset", justify="right")
    for name in names:
        table.add_column(name, f"{total[name]:,}", justify="right")
    table.add_column("sum", f"{sum(total.values()):,}", justify="right")
    for partition, row in rows.items():
        counts = [f"{count:,}" for count in row.values()]
        table.add_row(
            str(partition),
            f"{marks[partition].next_offset:,}",
            *counts,
            f"{sum(row.values()):,}",
        )
    Console(highlight=False).print(table)


def _read_row(settings: Settings, user: str) -> UserRow:
    from features.store import StoreError

    try:
        store = states.open_live(settings)
        (raw,) = store.read([user])
        row = UserRow.from_bytes(raw)
    except StoreError as error:
        raise _no_redis(settings, error) from error
    except UnknownRowFormat as error:
        raise CommandFailed(f"{error}. {_SAME_VERSION}") from error
    if raw is None:
        raise CommandFailed(
            f"nothing is kept about {safe_text(user)!r}. `headrace features --counters` shows "
            "whether events are being folded."
        )
    return row


def _read_other(settings: Settings, view: str, keys: Sequence[int]) -> list[bytes | None]:
    from features.store import StoreError

    try:
        return states.open_live(settings).beside(rows=view, marks="signals_mark").read(keys)
    except StoreError as error:
        raise _no_redis(settings, error) from error


def _read_marks(settings: Settings) -> dict[int, Mark]:
    from features.store import StoreError

    live = states.live(settings) or states.first(topics.EVENT_PARTITIONS)
    partitions = range(live.partitions)
    try:
        raw = states.open_rows(settings, live.number).read_marks(partitions)
    except StoreError as error:
        raise _no_redis(settings, error) from error
    return {p: Mark.from_bytes(mark) for p, mark in zip(partitions, raw, strict=True)}


def _no_redis(settings: Settings, error: Exception) -> CommandFailed:
    # The address may carry a password after its comma.
    address = settings.redis_address.partition(",")[0]
    return CommandFailed(
        f"Redis at {address} does not answer ({type(error).__name__}). Start it with `headrace "
        "up`, or set HEADRACE_REDIS_ADDRESS."
    )


def _names(settings: Settings) -> ItemNames:
    """What the catalogue calls items; rows can be read without it."""
    names, catalogue = ItemNames(), topics.with_prefix(settings.prefix, topics.ITEMS)
    try:
        Follower(settings.kafka, catalogue, names.take).start(CATALOGUE_TIMEOUT_S).stop()
    except (KafkaException, NotCaughtUp):
        click.echo(f"No item names: {catalogue} cannot be read from Kafka.", err=True)
    return names


def _instant(epoch_ms: int) -> str:
    moment = datetime.fromtimestamp(epoch_ms / 1000, UTC)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _escaped(text: str) -> str:
    from rich.markup import escape

    return escape(safe_text(text))
