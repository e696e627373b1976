"""The catalogue: what may be recommended now."""

import pytest

from stream import catalogue as module
from stream.catalogue import Catalogue
from stream.keys import item_key
from tests.builders import an_item


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


def test_the_outermost_category_follows_the_newest_record() -> None:
    """Trending lists are kept by it."""
    catalogue, key = Catalogue(), item_key("hat")
    seen = [catalogue.category_of(key)]
    for categories in (("Apparel", "Hats"), ("Gifts",), ()):
        catalogue.put(an_item("hat", categories=categories))
        seen.append(catalogue.category_of(key))
    catalogue.put(an_item("hat", categories=("Apparel",)))
    catalogue.delete("hat")

    assert [*seen, catalogue.category_of(key)] == [None, "Apparel", "Gifts", None, None]
