"""
What is trending: for each partition of signals the items visited most, overall and by category.

Items are on one partition each, so a reader merges the partitions' lists and has the best of all.
Visits halve by the day; a score is a logarithm that orders items at any moment, so a list need not
be touched as time passes. An item comes into a list when it is visited; lists are bounded, so what
has left one because others overtook it is there again with its next visit.
"""

import math
from array import array
from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import accumulate, pairwise
from typing import Any, Self

import orjson

from stream.item_row import HALF_LIVES_MS

OVERALL = 100
BY_CATEGORY = 50
CATEGORIES = 64  # further ones have no list
DAY_MS = HALF_LIVES_MS[1]
FORMAT = 1


class Scores(dict[int, float]):
    """A bounded list: `ItemRow.log_interest` by item key."""

    __slots__ = ("_bar",)

    def __init__(self, scores: Iterable[tuple[int, float]] = ()) -> None:
        super().__init__(scores)
        self._bar = -math.inf  # no more than the least of them; most items do not even pass that

    def put(self, key: int, score: float, limit: int) -> None:
        """Take in the new *score* of an item if it is one of the *limit* best."""
        if score == -math.inf:
            self.pop(key, None)
        elif key in self or len(self) < limit:
            self[key] = score
            self._bar = min(self._bar, score)
        elif score > self._bar:
            self._bar = least = min(self.values())
            if score > least:
                del self[max(one for one, value in self.items() if value == least)]
                self[key] = score


class UnknownTrendingFormat(Exception):
    """Lists that this version cannot read. Upgrade the worker, or rebuild the state."""


@dataclass
class Trending:
    """
    The lists of one partition of signals, or of several that were merged.

    Attributes:
        next_offset: The partition's records before it are in the lists.
        overall: Scores by item key.
        categories: The same by outermost category.
    """

    next_offset: int = 0
    overall: Scores = field(default_factory=Scores)
    categories: dict[str, Scores] = field(default_factory=dict)

    @property
    def applied(self) -> str:
        """What a compare-and-set expects of stored lists; empty for those not stored."""
        return str(self.next_offset) if self.next_offset else ""

    def put(self, key: int, score: float, category: str | None) -> None:
        """Place item *key*, of which *score* is new, in its lists."""
        self.overall.put(key, score, OVERALL)
        for name, scores in self.categories.items():
            if name != category:  # the shop may have moved it
                scores.pop(key, None)
        if category in self.categories or (category and len(self.categories) < CATEGORIES):
            self.categories.setdefault(category, Scores()).put(key, score, BY_CATEGORY)

    def best(self, n: int, category: str | None = None) -> list[tuple[int, float]]:
        """Up to *n* item keys and scores, overall or of one category, best first."""
        scores = self.overall if category is None else self.categories.get(category, Scores())
        return sorted(scores.items(), key=lambda one: (-one[1], one[0]))[:n]

    @classmethod
    def merged(cls, parts: Iterable[Self]) -> Self:
        """The lists of all *parts*, whose items differ."""
        whole = cls()
        for part in parts:
            whole.overall |= part.overall
            for category, scores in part.categories.items():
                whole.categories.setdefault(category, Scores()).update(scores)
        return whole

    def to_bytes(self) -> bytes:
        """Names and lengths as a line of JSON, then the keys and the scores of each list."""
        lists = [self.overall, *self.categories.values()]
        lengths = [len(scores) for scores in lists]
        head = {
            "format": FORMAT,
            "next_offset": self.next_offset,
            "categories": list(self.categories),
            "lengths": lengths,
        }
        columns = ((array("q", scores), array("d", scores.values())) for scores in lists)
        body = b"".join(part.tobytes() for column in columns for part in column)
        return orjson.dumps(head) + b"\n" + body

    @classmethod
    def from_bytes(cls, raw: bytes | None) -> Self:
        """
        Read lists; None, a partition without any, are empty ones.

        Raises:
            UnknownTrendingFormat: If they were written by another format of this software.
        """
        if raw is None:
            return cls()
        head, body = _parts(raw)
        ends = list(accumulate(head["lengths"], initial=0))
        lists = [_scores(body[16 * start : 16 * end]) for start, end in pairwise(ends)]
        by_category = dict(zip(head["categories"], lists[1:], strict=True))
        return cls(head["next_offset"], lists[0], by_category)


def best_overall(parts: Iterable[bytes | None]) -> list[int]:
    """
    Item keys of the overall lists of all *parts*, as they are stored, best first.

    What a worker reads each second: the lists of categories stay packed.
    """
    scores = Scores()
    for raw in parts:
        if raw is not None:
            head, body = _parts(raw)
            scores |= _scores(body[: 16 * head["lengths"][0]])
    return [key for key, _ in Trending(overall=scores).best(len(scores))]


def visits_at(score: float, now_ms: int) -> float:
    """The visits that *score* stands for, as faded at *now_ms*."""
    return math.exp2(score - now_ms / DAY_MS)


def _parts(raw: bytes) -> tuple[dict[str, Any], bytes]:
    """The line of JSON, and what follows it."""
    line, _, body = raw.partition(b"\n")
    head: dict[str, Any] = orjson.loads(line)
    if head["format"] != FORMAT:
        raise UnknownTrendingFormat(f"trending format {head['format']}, ours is {FORMAT}")
    return head, body


def _scores(packed: bytes) -> Scores:
    """One list: its keys, then as many scores."""
    half = len(packed) // 2
    return Scores(zip(array("q", packed[:half]), array("d", packed[half:]), strict=True))
