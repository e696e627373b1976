"""The guard stops what is bad, leaves alone what is good, and tells the others."""

import asyncio
from datetime import UTC, datetime

import pytest
from prometheus_client import CollectorRegistry

from services.errors import CommandFailed
from services.models.state import DeploymentFeed
from services.telemetry import VersionMetrics
from services.worker.canary import FLOOR_S, LEAST_ANSWERS, CanaryGuard, fault
from services.worker.scorecards import Scorecard, Scorecards
from stream.deployments import Canary, Deployment
from tests.fakes import a_deployment

ON_TRIAL = a_deployment(version="1", canary=Canary(version="2", share=500))


def a_card(*, seconds: float = 0.01, answers: int = 100, fell_back: int = 0) -> Scorecard:
    card = Scorecard()
    card.seconds.extend([seconds] * answers)
    card.fell_back.extend([False] * answers + [True] * fell_back)
    return card


def test_a_canary_like_the_serving_version_is_left_alone() -> None:
    """A guard that cries wolf is switched off."""
    assert fault(a_card(), a_card()) is None
    assert fault(Scorecard(), a_card()) is None


def test_wrong_values_are_not_forgiven_once() -> None:
    """Whoever answers NaN once will again."""
    card = a_card()
    card.failures["malformed"] += 1

    assert fault(card, a_card()) == "its values are wrong"


def test_failing_alone_ends_the_trial_at_the_third_time() -> None:
    """Twice may be chance."""
    assert fault(a_card(fell_back=2), a_card()) is None
    assert "3 of 50 requests failed" in str(fault(a_card(fell_back=3), a_card()))


def test_failures_with_good_answers_after_them_are_forgotten() -> None:
    """A hiccup of yesterday is no reason today."""
    card = a_card(fell_back=3)
    card.fell_back.extend([False] * 50)

    assert fault(card, a_card()) is None


@pytest.mark.parametrize(
    ("seconds", "serving_s", "answers", "is_slow"),
    [
        (0.101, 0.05, 100, True),
        (0.099, 0.05, 100, False),  # not twice as long
        (FLOOR_S - 0.001, 0.001, 100, False),  # fifty times as long, and fast enough
        (0.101, 0.05, LEAST_ANSWERS - 1, False),  # too early to say
    ],
)
def test_slow_is_twice_as_slow_as_the_serving_version(
    seconds: float, serving_s: float, answers: int, is_slow: bool
) -> None:
    """A busy machine slows both."""
    found = fault(a_card(seconds=seconds, answers=answers), a_card(seconds=serving_s))

    assert (found is not None) == is_slow


class Trial:
    """A guard, its feed, and the topic that both are connected with."""

    def __init__(self) -> None:
        self.feed = DeploymentFeed("ranker")
        metrics = VersionMetrics(CollectorRegistry())
        self.cards = Scorecards(metrics)
        self.kafka_is_down = False
        self.guard = CanaryGuard(
            self.feed,
            self.cards,
            metrics,
            announce=self.announce,
            me="worker-1",
            now=lambda: datetime(2026, 1, 1, tzinfo=UTC),
        )
        self.announce(ON_TRIAL)

    def announce(self, state: Deployment) -> None:
        if self.kafka_is_down:
            raise CommandFailed("no Kafka")
        self.feed.take(b"ranker", state.model_dump_json().encode(), 0, 0)

    def spoil(self) -> None:
        self.cards.failed("2", "malformed")


async def settled() -> None:
    for _ in range(20):
        await asyncio.sleep(0.01)


async def test_a_bad_canary_is_left_at_once_and_announced_with_the_reason() -> None:
    """Its users must not wait for Kafka to hear of it."""
    trial = Trial()
    assert trial.guard.current() == ON_TRIAL
    trial.kafka_is_down = True
    trial.spoil()

    state = trial.guard.current()
    assert state is not None and state.canary is None
    await settled()
    assert trial.feed.current() == ON_TRIAL  # the others do not know yet

    trial.kafka_is_down = False
    await asyncio.sleep(1.1)
    told = trial.feed.current()
    assert told is not None
    assert (told.canary, told.revision, told.version) == (None, 2, "1")
    assert told.reason == "canary 2 was rolled back by worker-1: its values are wrong"


async def test_a_second_trial_of_the_same_version_starts_afresh() -> None:
    """Somebody has repaired what was around it."""
    trial = Trial()
    trial.spoil()
    trial.guard.current()
    await settled()
    trial.guard.current()

    trial.announce(ON_TRIAL.model_copy(update={"revision": 9}))

    state = trial.guard.current()
    assert state is not None and state.canary is not None


async def test_a_promotion_at_the_same_moment_is_not_undone() -> None:
    """The person was first, and the version is not on trial any more."""
    trial = Trial()
    trial.kafka_is_down = True
    trial.spoil()
    trial.guard.current()
    await settled()
    trial.kafka_is_down = False
    promoted = ON_TRIAL.serve("2", (), now=ON_TRIAL.changed_at, reason="a person")
    trial.announce(promoted)
    await asyncio.sleep(1.1)

    assert trial.feed.current() == promoted == trial.guard.current()
