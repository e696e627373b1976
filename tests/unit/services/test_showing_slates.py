"""What people see of slates: readable, and safe whatever the catalogue says."""

import io
import json
from typing import Any

import pytest
from rich.console import Console

from services.commands.watch import latency_ms, render
from services.demo.screen import action, moves
from services.display.titles import Titles
from services.kafka.slates import Slate
from services.logs.catalogue_log import FIELDS, ItemReader
from services.logs.columns import parse_mapping
from services.logs.rows import BadRow, Row


def a_slate(*item_ids: str, **changes: Any) -> Slate:
    value = {
        "user_id": "ada",
        "strategy": "ranker",
        "model": {"name": "ranker", "version": "3"},
        "state": {"partition": 3, "offset": 17},
        "items": [
            {"item_id": item_id, "rank": rank, "score": 1 / rank, "sources": ["ranker"]}
            for rank, item_id in enumerate(item_ids, start=1)
        ],
        **changes,
    }
    return Slate("ada", value, received_s=100.25, event_time_ms=100_000)


def titles(**known: str) -> Titles:
    taken = Titles()
    for item_id, title in known.items():
        taken.take(b"", json.dumps({"item_id": item_id, "title": title}).encode(), 0, 0)
    return taken


def shown(renderable: Any) -> str:
    console = Console(file=io.StringIO(), width=100, force_terminal=True, color_system="truecolor")
    console.print(renderable)
    file = console.file
    assert isinstance(file, io.StringIO)
    return file.getvalue()


def test_a_slate_shows_titles_model_and_latency() -> None:
    """The id where an item has no title yet."""
    text = shown(render(a_slate("hat", "sku-9"), titles(hat="A hat"), 8))

    for part in ("ada", "A hat", "sku-9", "ranker 3", "250 ms", "state 3:17"):
        assert part in text


def test_a_degraded_slate_says_so() -> None:
    """Never silently."""
    text = shown(render(a_slate("hat", strategy="popular", model=None), titles(), 8))

    assert "popular (no model)" in text


def test_a_title_can_neither_colour_nor_move_the_terminal() -> None:
    """A catalogue is somebody's input: markup and escape sequences are text."""
    text = shown(render(a_slate("hat"), titles(hat="[bold]x[/]\x1b[2J\x07\u202e"), 8))

    assert "[bold]x[/]" in text
    assert "\x1b[2J" not in text
    assert "\x07" not in text
    assert "\u202e" not in text


def test_a_forgotten_user_is_shown_as_such() -> None:
    """A null value is a deletion, not an error."""
    assert "forgotten" in shown(render(Slate("ada", None, 1.0, None), titles(), 8))


def test_latency_needs_the_events_time() -> None:
    """A slate made because an item went away has no event behind it."""
    assert latency_ms(a_slate("hat")) == pytest.approx(250)
    assert latency_ms(Slate("ada", {}, 1.0, None)) is None


@pytest.mark.parametrize(
    ("before", "now", "shown_moves"),
    [
        ([], ["a", "b"], ["", ""]),
        (["a", "b", "c"], ["a", "b", "c"], ["", "", ""]),
        (["a", "b", "c"], ["c", "a", "d"], ["up 2", "down 1", "new"]),
    ],
)
def test_moves_say_what_a_click_did(
    before: list[str], now: list[str], shown_moves: list[str]
) -> None:
    """The point of the demo."""
    assert moves(before, now) == shown_moves


def test_an_action_names_the_title_or_the_query() -> None:
    """What the shopper did, in words."""
    known = titles(hat="A hat")

    assert action({"event_type": "add_to_cart", "item_id": "hat"}, known) == "add to cart: A hat"
    assert action({"event_type": "search", "query": "hats"}, known) == "search: hats"
    assert action(
        {"event_type": "click", "item_id": "hat", "recommendation_id": "r"}, known
    ).endswith("(recommended)")


def test_titles_follow_the_catalogue() -> None:
    """Deleted items lose theirs, and what is not an item is passed over."""
    known = titles(hat="A hat")
    known.take(b"hat", None, 0, 1)
    known.take(b"x", b"not json", 0, 2)
    known.take(b"x", b"[1]", 0, 3)

    assert known.of("hat") == "hat"


def test_a_catalogue_row_becomes_an_item() -> None:
    """Real catalogues: numeric ids, a path of categories, yes and no."""
    reader = ItemReader(
        parse_mapping(["item_id=sku", "title=name", "categories=path"], FIELDS), {"currency": "USD"}
    )
    row = Row(2, {"sku": 7, "name": "A hat", "path": "Home/Hats/", "price": 9.5, "available": "no"})

    item, value = reader.read(row)

    assert (item.item_id, item.title, item.categories) == ("7", "A hat", ("Home", "Hats"))
    assert (item.available, item.currency, item.price) == (False, "USD", 9.5)
    assert json.loads(value)["item_id"] == "7"


def test_a_catalogue_row_without_title_is_named() -> None:
    """People would see an empty place in every slate."""
    with pytest.raises(BadRow, match="title"):
        ItemReader().read(Row(2, {"item_id": "hat"}))
