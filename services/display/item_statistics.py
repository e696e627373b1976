"""Items' statistics and trending lists, for people and as JSON."""

import math
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any, Protocol

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from services.display.rendering import safe_text
from stream.item_row import Count, ItemRow
from stream.signals import Kind
from stream.trending import visits_at

_SPANS = {"ever": "ever", "hour": "1 h", "day": "24 h", "week": "7 d"}  # of `Count`
_NEIGHBOURS = {Kind.CO_VISITED: "visited afterwards", Kind.BOUGHT_TOGETHER: "bought together"}


class Names(Protocol):
    """What the catalogue calls item keys."""

    def id_of(self, key: int) -> str | None: ...
    def title_of(self, key: int) -> str: ...


def item_as_dict(item_id: str, row: ItemRow, names: Names) -> dict[str, Any]:
    """The row as JSON shows it; everything has faded to its newest event."""
    conversion = row.conversion()
    return {
        "item_id": item_id,
        "applied": {"partition": row.partition, "offset": row.offset},
        "as_of": _instant(row.as_of_ms),
        "counts": {kind.name.lower(): count._asdict() for kind, count in row.counts().items()},
        "conversion": None if math.isnan(conversion) else conversion,
        **{
            kind.name.lower(): [
                {**one._asdict(), "item_id": names.id_of(one.item_key)}
                for one in row.neighbours(kind)
            ]
            for kind in _NEIGHBOURS
        },
    }


def show_item(item_id: str, row: ItemRow, names: Names, most: int) -> None:
    """Print the row: counts, then the *most* heaviest neighbours of each kind."""
    console = Console(highlight=False)
    console.print(
        f"[bold cyan]{escape(safe_text(item_id))}[/]  newest event {_instant(row.as_of_ms)}"
    )
    if not math.isnan(conversion := row.conversion()):
        console.print(f"{conversion:.2%} of its impressions ended in a purchase")
    counts = Table("", *_SPANS.values(), title="actions, halving with age", title_justify="left")
    for event_type, count in row.counts().items():
        counts.add_row(
            event_type.name.lower(), *(f"{getattr(count, one):,.2f}" for one in Count._fields)
        )
    console.print(counts)
    for kind, title in _NEIGHBOURS.items():
        neighbours = row.neighbours(kind)
        table = Table("item", "weight", "at most too high by", title=title, title_justify="left")
        for one in neighbours[:most]:
            name = escape(names.title_of(one.item_key))
            table.add_row(name, f"{one.weight:,.2f}", f"{one.error:,.2f}" if one.error else "")
        if neighbours:
            console.print(table)
        if (hidden := len(neighbours) - most) > 0:
            console.print(f"[dim]… {hidden} lighter[/]")


def trending_as_dicts(
    best: Sequence[tuple[int, float]], names: Names, now_ms: int
) -> list[dict[str, Any]]:
    """The list as JSON shows it, best first."""
    return [
        {"item_id": names.id_of(key), "item_key": key, "visits": visits_at(score, now_ms)}
        for key, score in best
    ]


def show_trending(best: Sequence[tuple[int, float]], names: Names, now_ms: int) -> None:
    """Print the list; visits have faded to *now_ms*."""
    table = Table("", "item", "visits, halving by the day")
    for place, (key, score) in enumerate(best, start=1):
        name = escape(names.title_of(key))
        table.add_row(str(place), name, f"{visits_at(score, now_ms):,.2f}")
    Console(highlight=False).print(table)


def _instant(epoch_ms: int) -> str:
    moment = datetime.fromtimestamp(epoch_ms / 1000, UTC)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")
