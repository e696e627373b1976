"""What `headrace features` says of items and trends."""

import pytest
from click.testing import CliRunner

from features.item_rows import unpack_item_rows
from services.cli import main
from services.display.item_statistics import (
    item_as_dict,
    show_item,
    show_trending,
    trending_as_dicts,
)
from stream.item_row import ItemRow
from stream.signals import Kind
from stream.trending import DAY_MS
from tests.builders import T0_MS


class Names:
    """Names items by their key."""

    def id_of(self, key: int) -> str | None:
        return f"i{key}"

    def title_of(self, key: int) -> str:
        return f"The [{key}]"


def a_row() -> ItemRow:
    """Shown four times, bought once, visited before items 8 and 9."""
    row = ItemRow(partition=3, offset=7)
    shown = [(5, 0, n, Kind.COUNT, 1, 0, 1.0, T0_MS) for n in range(4)]
    bought = (5, 0, 9, Kind.COUNT, 9, 0, 1.0, T0_MS)
    followed = [(5, 0, 9, Kind.CO_VISITED, 0, other, other / 2, T0_MS) for other in (8, 9)]
    row.fold([*shown, bought, *followed])
    return row


def test_an_item_as_json() -> None:
    """For scripts: ids, and no number that JSON does not have."""
    shown = item_as_dict("hat", a_row(), Names())

    assert shown["applied"] == {"partition": 3, "offset": 7}
    assert shown["as_of"] == "2016-08-01T12:00:00.000Z"
    assert shown["counts"]["impression"]["ever"] == 4
    assert shown["conversion"] == 0.25
    assert [one["item_id"] for one in shown["co_visited"]] == ["i9", "i8"]
    assert shown["bought_together"] == []
    assert item_as_dict("new", ItemRow(), Names())["conversion"] is None


def test_an_item_for_people(capsys: pytest.CaptureFixture[str]) -> None:
    """Titles may hold anything; the table shows it as it is."""
    show_item("hat [red]", a_row(), Names(), most=1)

    output = capsys.readouterr().out
    assert "hat [red]" in output
    assert "25.00% of its impressions ended in a purchase" in output
    assert "The [9]" in output
    assert "The [8]" not in output
    assert "… 1 lighter" in output


def test_what_is_trending(capsys: pytest.CaptureFixture[str]) -> None:
    """Scores are logarithms; people want visits."""
    now_ms = 17_000 * DAY_MS
    best = [(8, 17_003.0), (9, 17_001.0)]

    show_trending(best, Names(), now_ms)

    assert "8.00" in capsys.readouterr().out
    assert trending_as_dicts(best, Names(), now_ms)[1] == {
        "item_id": "i9",
        "item_key": 9,
        "visits": 2.0,
    }


def test_feast_sees_the_row_as_columns() -> None:
    """One place for each item asked for, whether or not anything is known of it."""
    columns = unpack_item_rows({"row": [a_row().to_bytes(), None]})

    assert columns["event_types"] == [["impression", "purchase"], []]
    assert columns["counts_ever"] == [[4.0, 1.0], []]
    assert columns["co_visited_keys"] == [[9, 8], []]
    assert columns["as_of_ms"] == [T0_MS, 0]


@pytest.mark.parametrize("arguments", [[], ["ada", "--counters"], ["--item", "hat", "--trending"]])
def test_one_thing_is_shown(arguments: list[str]) -> None:
    """Two questions at once have no answer."""
    result = CliRunner().invoke(main, ["features", *arguments])

    assert result.exit_code == 2
    assert "name a USER" in result.output
