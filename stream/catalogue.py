"""The catalogue as every worker holds it: item keys, ids and availability, but no titles."""

import sys
from collections.abc import Callable

from stream.items import Item
from stream.keys import item_key


class Catalogue:
    """
    Which items exist and which can be had, by item key.

    Attributes:
        collisions: How many times two item ids had the same key. The lexicographically smaller
            id keeps it, here and everywhere, so the order of arrival does not matter.
    """

    def __init__(self) -> None:
        self._ids: dict[int, str] = {}
        self._available: dict[int, str] = {}  # those of them that may be recommended now
        self._categories: dict[int, str] = {}  # the outermost one
        self.collisions = 0

    def __len__(self) -> int:
        return len(self._ids)

    def put(self, item: Item) -> None:
        """Add or replace *item*."""
        key = item_key(item.item_id)
        if self._is_others(key, item.item_id):
            self.collisions += 1
            if self._ids[key] < item.item_id:
                return
        self._ids[key] = item.item_id
        if item.categories:
            self._categories[key] = sys.intern(item.categories[0])
        else:
            self._categories.pop(key, None)
        if item.available:
            self._available[key] = item.item_id
        else:
            self._available.pop(key, None)

    def delete(self, item_id: str) -> None:
        """Forget an item. Deleting one that is not there is no error: a log may be read again."""
        key = item_key(item_id)
        if key in self._ids and not self._is_others(key, item_id):
            del self._ids[key]
            self._categories.pop(key, None)
            self._available.pop(key, None)

    @property
    def id_of(self) -> Callable[[int], str | None]:
        """Gives the item id of a key if the item may be recommended now, else None."""
        return self._available.get  # asked for every candidate: no call of ours in between

    def category_of(self, key: int) -> str | None:
        """The outermost category of the item, or None if it has none."""
        return self._categories.get(key)

    def _is_others(self, key: int, item_id: str) -> bool:
        return self._ids.get(key, item_id) != item_id
