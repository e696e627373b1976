"""Trending lists: the best items, bounded, by category, and merged by readers."""

import math

import pytest

from stream.trending import (
    BY_CATEGORY,
    CATEGORIES,
    DAY_MS,
    OVERALL,
    Trending,
    UnknownTrendingFormat,
    best_overall,
    visits_at,
)


def test_the_best_are_kept_overall_and_by_category() -> None:
    """However many items a shop has."""
    lists = Trending()
    for key in range(300):
        lists.put(key, key % 250, "even" if key % 2 == 0 else "odd")

    assert [score for _, score in lists.best(OVERALL)] == list(range(249, 149, -1))
    assert lists.best(3, "even") == [(248, 248), (246, 246), (244, 244)]
    assert len(lists.best(1000, "odd")) == BY_CATEGORY
    assert lists.best(3, "none such") == []


def test_an_item_moves_and_leaves() -> None:
    """Its visits were taken back, or the shop put it into another category."""
    lists = Trending()
    lists.put(1, 5.0, "hats")
    lists.put(2, 6.0, "hats")

    lists.put(1, 7.0, "gifts")
    lists.put(2, -math.inf, "hats")

    assert (lists.best(9), lists.best(9, "hats"), lists.best(9, "gifts")) == (
        [(1, 7.0)],
        [],
        [(1, 7.0)],
    )


def test_the_number_of_categories_is_bounded() -> None:
    """A catalogue with a category for each item must not make the lists large."""
    lists = Trending()
    for key in range(CATEGORIES + 10):
        lists.put(key, 1.0, f"category {key}")

    assert len(lists.categories) == CATEGORIES
    assert len(lists.overall) == CATEGORIES + 10


def test_readers_merge_the_partitions() -> None:
    """Each item is on one of them."""
    parts = [Trending(), Trending(), Trending()]
    for key in range(9):
        parts[key % 3].put(key, float(key), "hats" if key < 5 else None)

    merged = Trending.merged(parts)

    assert [key for key, _ in merged.best(4)] == [8, 7, 6, 5]
    assert [key for key, _ in merged.best(4, "hats")] == [4, 3, 2, 1]
    assert best_overall([*(part.to_bytes() for part in parts), None]) == [8, 7, 6, 5, 4, 3, 2, 1, 0]


def test_packing_loses_nothing() -> None:
    """The stored lists are what a restarted worker goes on with."""
    lists = Trending(next_offset=77)
    for key in (-(2**63), 2**63 - 1, 5):
        lists.put(key, key / 3, "Säfte & Co")

    assert Trending.from_bytes(lists.to_bytes()) == lists
    assert (Trending.from_bytes(None), Trending.from_bytes(None).applied) == (Trending(), "")
    with pytest.raises(UnknownTrendingFormat, match="format 9"):
        Trending.from_bytes(b'{"format":9}\n')


def test_a_score_stands_for_visits_at_any_time() -> None:
    """Eight visits now are four tomorrow."""
    now_ms = 17_000 * DAY_MS
    score = 3 + now_ms / DAY_MS

    assert visits_at(score, now_ms) == pytest.approx(8)
    assert visits_at(score, now_ms + DAY_MS) == pytest.approx(4)
