"""Stage 5, slate: from ranked item keys to what a user is shown, and its record."""

from collections.abc import Container, Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import chain, islice, repeat

from stream import topics
from stream.catalogue import Catalogue
from stream.deployments import Deployment
from stream.fold import Folded
from stream.keys import item_key
from stream.pipeline import Pipeline
from stream.ranking import Candidate, Ranking
from stream.recommendation import (
    Recommendation,
    RecommendedItem,
    State,
    Strategy,
    Trigger,
    recommendation_id,
)
from stream.records import EVENT_TIME_MS, Outgoing, Record, trace_headers


@dataclass(frozen=True, slots=True)
class Slate:
    """A recommendation, and the record that triggered it."""

    recommendation: Recommendation
    trigger: Record

    def outgoing(self) -> Outgoing:
        """The record to publish. Its headers say when the event came, and in what trace."""
        arrived = str(self.trigger.timestamp_ms).encode()
        return Outgoing(
            topic=topics.RECOMMENDATIONS,
            key=self.recommendation.user_id.encode(),
            value=self.recommendation.to_json(),
            headers=((EVENT_TIME_MS, arrived), *trace_headers(self.trigger)),
        )


def make_slates(pipeline: Pipeline, folded: Folded, ranking: Ranking) -> list[Slate]:
    """One slate for each user of the batch who wants one."""
    popular = list(_popular(pipeline.deployment(), pipeline.trending()))
    return [
        _make_slate(pipeline, folded, user_id, ranking, popular)
        for user_id in folded.wanting_slates
    ]


def _make_slate(
    pipeline: Pipeline,
    folded: Folded,
    user_id: str,
    ranking: Ranking,
    popular: list[Candidate],
) -> Slate:
    row, newest, rules = folded.rows[user_id], folded.newest[user_id], pipeline.rules
    items = cut(
        chain(ranking.candidates.get(user_id, ()), popular),
        catalogue=pipeline.catalogue,
        hidden=row.bought() if rules.hide_bought else (),
        k=rules.slate_size,
    )
    state = State(partition=row.partition, offset=row.offset)
    strategy = _strategy(items)
    recommendation = Recommendation(
        recommendation_id=recommendation_id(
            user_id, rules.surface, state, tuple(item.item_id for item in items)
        ),
        user_id=user_id,
        surface=rules.surface,
        k=rules.slate_size,
        generated_at=pipeline.now(),
        as_of=datetime.fromtimestamp(row.as_of_ms / 1000, UTC),
        state=state,
        trigger=Trigger(kind="event", event_id=newest.event.event_id),
        strategy=strategy,
        model=ranking.models.get(user_id) if strategy == "ranker" else None,
        items=items,
    )
    return Slate(recommendation, newest.record)


def cut(
    candidates: Iterable[Candidate], *, catalogue: Catalogue, hidden: Container[int], k: int
) -> tuple[RecommendedItem, ...]:
    """
    Cut *candidates* to a slate of at most *k* unique items.

    Args:
        candidates: Best first.
        catalogue: What is not in it or not available is left out.
        hidden: Keys never shown to this user: what they have bought.
        k: The slate is shorter only when there are fewer candidates.
    """
    allowed = _allowed(candidates, catalogue, hidden)
    return tuple(
        RecommendedItem(item_id=item_id, rank=rank, score=score, sources=(source,))
        for rank, (item_id, score, source) in enumerate(islice(allowed, k), start=1)
    )


def _allowed(
    candidates: Iterable[Candidate], catalogue: Catalogue, hidden: Container[int]
) -> Iterator[tuple[str, float, str]]:
    seen: set[int] = set()
    for key, score, source in candidates:
        item_id = catalogue.id_of(key)
        if item_id is None or key in hidden or key in seen:
            continue
        seen.add(key)
        yield item_id, score, source


def _strategy(items: Iterable[RecommendedItem]) -> Strategy:
    """The best of what took part."""
    sources = {source for item in items for source in item.sources}
    return (
        "ranker" if "ranker" in sources else "co_visited" if "co_visited" in sources else "popular"
    )


def _popular(deployment: Deployment | None, trending: Iterable[int]) -> Iterator[Candidate]:
    """What is trending, then popular items of the deployed version, by reciprocal rank."""
    released = map(item_key, deployment.popular if deployment else ())
    sources = chain(zip(trending, repeat("trending")), zip(released, repeat("popular")))
    for rank, (key, source) in enumerate(sources, start=1):
        yield key, 1.0 / rank, source
