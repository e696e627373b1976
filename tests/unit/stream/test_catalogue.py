"""The catalogue: what may be recommended now."""

import pytest

from stream import catalogue as module
from stream.catalogue import Catalogue
from stream.keys import item_key
from stream.popularity import LiveCounts
from tests.builders import an_item

DAY_MS = 86_400_000


def test_availability_follows_the_newest_record() -> None:
    """Sold out at ten, restocked at noon."""
    catalogue, key = Catalogue(), item_key("hat")
    seen = [catalogue.id_of(key)]
    for available in (True, False, True):
        catalogue.put(an_item("hat", available=available))
        seen.append(catalogue.id_of(key))
    catalogue.delete("hat")

    assert [*seen, catalogue.id_of(key)] == [None, "hat", None, "hat", None]
    catalogue.delete("hat")  # a log may be read again


@pytest.mark.parametrize("order", [("a", "b"), ("b", "a")])
def test_of_two_ids_with_one_key_the_smaller_wins(
    order: tuple[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every worker must decide alike, whatever it read first."""
    monkeypatch.setattr(module, "item_key", lambda item_id: 7)
    catalogue = Catalogue()

    for item_id in order:
        catalogue.put(an_item(item_id))
    catalogue.delete("b")

    assert (catalogue.id_of(7), catalogue.collisions) == ("a", 1)


def test_live_counts_fade_in_event_time() -> None:
    """Last year's bestseller is not popular now; two clicks a half-life ago weigh as one now."""
    live = LiveCounts(half_life_s=86_400)
    for _ in range(3):
        live.add(1, 0)
    live.add(2, DAY_MS)
    live.add(2, DAY_MS)

    assert live.best(2) == [2, 1]
    live.add(3, 1000 * DAY_MS)
    assert live.best(5) == [3]
