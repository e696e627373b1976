"""
An item's neighbours: at most 100, with what leaving the others out may have cost.

Space-Saving (Metwally et al., ICDT 2005): when the list is full, a new neighbour takes the place of
the lightest and inherits its weight, which is remembered as its error. So the true weight of one
that is listed lies between ``weight - error`` and ``weight``. The heaviest that was ever evicted is
the *floor*: no neighbour that is not listed weighs more. Plain Space-Saving has no need of it,
since its lightest only grows; here weights are also taken back.

Weights are forward-decayed, relative to a landmark that the item's row knows.
"""

import math
import struct
from array import array
from dataclasses import dataclass, field
from typing import NamedTuple, Self

import numpy as np

from stream.packed import place_of

LIMIT = 100
_HEADER = struct.Struct("<Bd")
_KEY = struct.Struct("<q")


class Neighbour(NamedTuple):
    """Another item; its true weight lies between ``weight - error`` and ``weight``."""

    item_key: int
    weight: float
    error: float


@dataclass(slots=True)
class Neighbours:
    """Up to `LIMIT` other items in parallel arrays, which take a tenth of what objects would."""

    keys: "array[int]" = field(default_factory=lambda: array("q"))
    weights: "array[float]" = field(default_factory=lambda: array("d"))
    errors: "array[float]" = field(default_factory=lambda: array("d"))
    floor: float = 0.0

    def add(self, key: int, weight: float) -> None:
        """Add *weight*, or take it back if it is negative."""
        place = place_of(_KEY.pack(key), self.keys.tobytes(), width=_KEY.size)
        if place >= 0:
            self._add_to(place, weight)
        elif weight > 0:
            self._admit(key, weight)

    def best(self, fade: float) -> list[Neighbour]:
        """All of them, weights times *fade*; first those that are surely heaviest."""
        columns = zip(self.keys, self.weights, self.errors, strict=True)
        faded = (Neighbour(key, weight * fade, error * fade) for key, weight, error in columns)
        return sorted(faded, key=lambda one: (one.error - one.weight, one.item_key))

    def scale(self, half_lives: int) -> None:
        """Move the landmark on by so many half-lives: exact, as it halves binary numbers."""
        self.floor = math.ldexp(self.floor, -half_lives)
        for sums in (self.weights, self.errors):
            for place, value in enumerate(sums):
                sums[place] = math.ldexp(value, -half_lives)

    def _admit(self, key: int, weight: float) -> None:
        if len(self.keys) == LIMIT:
            place = int(np.frombuffer(self.weights).argmin())  # half of what min() takes
            self.floor = max(self.floor, self.weights[place])
            self._remove(place)
        # It may be one of those evicted before.
        self.keys.append(key)
        self.weights.append(self.floor + weight)
        self.errors.append(self.floor)

    def _add_to(self, place: int, weight: float) -> None:
        self.weights[place] += weight
        if self.weights[place] <= -weight * _NOTHING:
            self._remove(place)

    def _remove(self, place: int) -> None:
        for column in (self.keys, self.weights, self.errors):
            column.pop(place)

    def to_bytes(self) -> bytes:
        """How many, the floor, and the three columns one after the other."""
        header = _HEADER.pack(len(self.keys), self.floor)
        return b"".join((header, self.keys, self.weights, self.errors))

    @classmethod
    def from_bytes(cls, raw: bytes, at: int) -> tuple[Self, int]:
        """What `to_bytes` wrote at *at* of *raw*, and where it ends."""
        length, floor = _HEADER.unpack_from(raw, at)
        first = at + _HEADER.size
        second, third, end = (first + n * 8 * length for n in (1, 2, 3))
        columns = (
            array("q", raw[first:second]),
            array("d", raw[second:third]),
            array("d", raw[third:end]),
        )
        return cls(*columns, floor), end


_NOTHING = 1e-9  # of a weight taken back: what rounding may leave of it
