"""Stage 5, slate: from ranked item keys to what a user is shown, and its record."""

from collections.abc import Callable, Container, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from itertools import chain, repeat

from msgspec import Struct

from stream import topics
from stream.deployments import Deployment
from stream.fold import Folded
from stream.keys import item_key
from stream.pipeline import Pipeline
from stream.ranking import Candidate, Ranking
from stream.recommendation import (
    ModelVersion,
    Recommendation,
    RecommendedItem,
    State,
    Strategy,
    Trigger,
    recommendation_id,
)
from stream.records import EVENT_TIME_MS, Outgoing, Record, trace_headers


class Considered(Struct, frozen=True, gc=False, array_like=True):
    """A candidate that was looked at, best first, until the slate was full."""

    key: int
    score: float
    source: str
    item_id: str | None  # None: it was not in the catalogue, or not available
    hidden: bool  # from this user


@dataclass(frozen=True, slots=True)
class Slate:
    """A recommendation, the record that triggered it, and the candidates that it was cut from."""

    recommendation: Recommendation
    trigger: Record
    considered: Sequence[Considered]

    def outgoing(self) -> Outgoing:
        """The record to publish. Its headers say when the event came, and in what trace."""
        arrived = str(self.trigger.timestamp_ms).encode()
        return Outgoing(
            topic=topics.RECOMMENDATIONS,
            key=self.recommendation.user_id.encode(),
            value=self.recommendation.to_json(),
            headers=((EVENT_TIME_MS, arrived), *trace_headers(self.trigger)),
        )


def make_slates(pipeline: Pipeline, folded: Folded, ranking: Ranking) -> Iterator[Slate]:
    """
    One slate for each user of the batch who wants one.

    It is some hundred objects: made into a record before the next is asked for, it is freed while
    a cache still has it.
    """
    deployment, trending = pipeline.deployment(), pipeline.trending()
    for user_id in folded.wanting_slates:
        # Few slates read of what is popular at all, so it is listed by whoever does.
        popular = _popular(deployment, trending)
        yield _make_slate(pipeline, folded, user_id, ranking, popular)


def _make_slate(
    pipeline: Pipeline,
    folded: Folded,
    user_id: str,
    ranking: Ranking,
    popular: Iterable[Candidate],
) -> Slate:
    row, newest, rules = folded.rows[user_id], folded.newest[user_id], pipeline.rules
    considered = consider(
        chain(ranking.candidates.pop(user_id, ()), popular),
        id_of=pipeline.catalogue.id_of,
        hidden=row.bought() if rules.hide_bought else (),
        k=rules.slate_size,
    )
    recommendation = compose(
        considered,
        user_id=user_id,
        surface=rules.surface,
        k=rules.slate_size,
        generated_at=pipeline.now(),
        as_of=datetime.fromtimestamp(row.as_of_ms / 1000, UTC),
        state=State(partition=row.partition, offset=row.offset),
        trigger=Trigger(kind="event", event_id=newest.event_id),
        model=ranking.models.get(user_id),
    )
    return Slate(recommendation, newest.record, considered)


def consider(
    candidates: Iterable[Candidate],
    *,
    id_of: Callable[[int], str | None],
    hidden: Container[int],
    k: int,
) -> list[Considered]:
    """
    Look at *candidates*, each item once, until *k* may be shown.

    Args:
        candidates: Best first.
        id_of: What the catalogue calls an item; None for one that is not to be recommended now.
        hidden: Keys never shown to this user: what they have bought.
        k: The slate is shorter only when there are fewer candidates.
    """
    seen: set[int] = set()
    considered: list[Considered] = []
    missing = k
    for key, score, source in candidates:
        if not missing:
            break
        if key not in seen:
            seen.add(key)
            one = Considered(key, score, source, id_of(key), key in hidden)
            missing -= one.item_id is not None and not one.hidden
            considered.append(one)
    return considered


def compose(
    considered: Iterable[Considered],
    *,
    user_id: str,
    surface: str,
    k: int,
    generated_at: datetime,
    as_of: datetime,
    state: State,
    trigger: Trigger,
    model: ModelVersion | None,
) -> Recommendation:
    """The slate that *considered* make: those that may be shown, in their order."""
    items: list[RecommendedItem] = []
    sources: set[str] = set()
    for one in considered:
        if one.item_id is not None and not one.hidden:
            items.append(RecommendedItem(one.item_id, len(items) + 1, one.score, (one.source,)))
            sources.add(one.source)
    strategy = _strategy(sources)
    return Recommendation(
        recommendation_id=recommendation_id(
            user_id, surface, state, [item.item_id for item in items]
        ),
        user_id=user_id,
        surface=surface,
        k=k,
        generated_at=generated_at,
        as_of=as_of,
        state=state,
        trigger=trigger,
        strategy=strategy,
        model=model if strategy == "ranker" else None,
        items=tuple(items),
    )


def _strategy(sources: Container[str]) -> Strategy:
    """The best of what took part."""
    return (
        "ranker" if "ranker" in sources else "co_visited" if "co_visited" in sources else "popular"
    )


def _popular(deployment: Deployment | None, trending: Iterable[int]) -> Iterator[Candidate]:
    """What is trending, then popular items of the deployed version, by reciprocal rank."""
    released = _keys(deployment.popular if deployment else ())
    sources = chain(zip(trending, repeat("trending")), zip(released, repeat("popular")))
    for rank, (key, source) in enumerate(sources, start=1):
        yield key, 1.0 / rank, source


@lru_cache(maxsize=2)
def _keys(item_ids: tuple[str, ...]) -> tuple[int, ...]:
    """A deployment's two hundred item ids, hashed once and not with every micro-batch."""
    return tuple(map(item_key, item_ids))
