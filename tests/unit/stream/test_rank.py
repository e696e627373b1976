"""Who is ranked by which version, and what becomes of a canary that fails."""

import asyncio

import orjson

from stream import topics
from stream.deployments import Canary
from stream.pipeline import Pipeline
from stream.recommend import recommend
from tests.builders import a_record
from tests.fakes import FakeRanker, a_deployment, a_pipeline

USERS = [f"u{number}" for number in range(40)]
CANARY = Canary(version="2", share=5_000)


def with_canary(ranker: FakeRanker | None = None) -> Pipeline:
    """A pipeline whose version 2 serves half of the users."""
    deployment = a_deployment(canary=CANARY)
    ranker = ranker or FakeRanker("shoes", "scarf", "hat", "coat")
    return a_pipeline(deployment=lambda: deployment, ranker=ranker)


def models(pipeline: Pipeline) -> dict[str, str | None]:
    """One event of every user; the version that made each one's slate."""
    records = [a_record(n, user_id=user, item_id="hat") for n, user in enumerate(USERS)]
    asyncio.run(recommend(pipeline, records))
    slates = [orjson.loads(one.value) for one in pipeline.publish.on(topics.RECOMMENDATIONS)]
    return {slate["user_id"]: slate["model"] and slate["model"]["version"] for slate in slates}


def test_every_user_is_ranked_by_their_own_version_and_the_slate_names_it() -> None:
    """Nobody can judge a canary whose slates are not told apart."""
    pipeline = with_canary()

    assert models(pipeline) == {user: "2" if CANARY.takes(user) else "1" for user in USERS}
    assert pipeline.versions.answers == {"1": 1, "2": 1}
    assert sum(pipeline.versions.slates.values()) == len(USERS)


def test_whom_the_canary_fails_the_serving_version_ranks() -> None:
    """A trial must not cost its users their list."""
    pipeline = with_canary()
    pipeline.ranker.broken = {"2"}

    assert set(models(pipeline).values()) == {"1"}
    assert pipeline.versions.failures == {("2", "down"): 1}
    assert pipeline.versions.fallbacks == {"2": 1}


def test_a_canary_is_not_to_blame_where_triton_is_gone() -> None:
    """Or every outage would end the trial."""
    pipeline = with_canary()
    pipeline.ranker.down = True

    assert set(models(pipeline).values()) == {None}
    assert pipeline.versions.fallbacks == {}


def test_a_failing_serving_version_is_not_replaced_by_the_canary() -> None:
    """It is on trial: it must not take everybody at the worst of times."""
    pipeline = with_canary()
    pipeline.ranker.broken = {"1"}

    assert models(pipeline) == {user: "2" if CANARY.takes(user) else None for user in USERS}


def test_the_shadow_is_handed_what_was_asked_and_answered() -> None:
    """And it is so once the slates are out."""
    pipeline = with_canary()
    models(pipeline)

    answers = {answer.version: answer for answer in pipeline.shadow.answers}
    assert set(answers["2"].users) == {user for user in USERS if CANARY.takes(user)}
    assert len(answers["1"].ranked.item_keys) == len(answers["1"].users)
