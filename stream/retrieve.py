"""
Stage 4b, retrieve: what to show a user for whom no ranker answered.

The neighbours of the items visited last: what others went on to. Items' rows are read only then.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import islice

from stream.fold import Folded
from stream.history import UserRow
from stream.item_row import ItemRow
from stream.pipeline import Pipeline
from stream.ranking import Candidate, Ranking
from stream.signals import Kind, newest_visits

NEWEST_ITEMS = 5  # of a user, whose neighbours are candidates
CANDIDATES = 200


async def retrieve(pipeline: Pipeline, folded: Folded, ranking: Ranking) -> Ranking:
    """*ranking* with co-visited candidates for each user who wants a slate and has none in it."""
    visited = {
        user: items
        for user in folded.wanting_slates
        if not ranking.candidates.get(user) and (items := newest_items(folded.rows[user]))
    }
    if not visited:
        return ranking
    keys = list(dict.fromkeys(key for items in visited.values() for key in items))
    rows = dict(zip(keys, map(ItemRow.from_bytes, await pipeline.items(keys)), strict=True))
    found = {user: co_visited([rows[key] for key in items]) for user, items in visited.items()}
    return replace(ranking, candidates={**ranking.candidates, **found})


def newest_items(row: UserRow) -> list[int]:
    """Keys of the distinct items that the user visited last, newest first."""
    visits = (key for _, _, key in newest_visits(row))
    return list(islice(dict.fromkeys(visits), NEWEST_ITEMS))


def co_visited(rows: Sequence[ItemRow]) -> list[Candidate]:
    """
    The neighbours of items, best first.

    A neighbour's score is its share of what followed each item, discounted by how many other items
    were visited since: 1, 1/2, 1/3…

    Args:
        rows: Of the items visited last, newest first.
    """
    scores: dict[int, float] = {}
    for since, row in enumerate(rows, start=1):
        for key, share in _shares(row).items():
            scores[key] = scores.get(key, 0.0) + share / since
    best = sorted(scores.items(), key=lambda one: (-one[1], one[0]))
    return [(key, score, "co_visited") for key, score in best[:CANDIDATES]]


def _shares(row: ItemRow) -> Mapping[int, float]:
    # What eviction may have added is left out.
    sure = {one.item_key: one.weight - one.error for one in row.neighbours(Kind.CO_VISITED)}
    whole = sum(sure.values())
    return {key: weight / whole for key, weight in sure.items() if weight > 0}
