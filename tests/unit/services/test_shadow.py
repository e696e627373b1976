"""A shadow is compared and never waited for."""

import asyncio
from collections.abc import Sequence

import numpy as np
import pytest
from prometheus_client import CollectorRegistry

from services.telemetry import VersionMetrics
from services.worker.scorecards import Scorecards
from services.worker.shadow import USERS, ShadowComparison, similarity
from stream.ranking import Answer, Ranked, RankerInput, RankerUnavailable
from tests.fakes import a_deployment

NOTHING = np.zeros(0, np.int32)
A_HISTORY = RankerInput(np.zeros(0, np.int64), NOTHING, np.zeros(0, np.float32), NOTHING, NOTHING)


def ranked(*rows: Sequence[int]) -> Ranked:
    keys = np.array(rows, np.int64)
    return Ranked(keys, -np.arange(keys.size, dtype=np.float32).reshape(keys.shape))


def test_the_same_answer_is_the_same() -> None:
    """The measure of a version against itself."""
    rows = ranked(range(1, 31), range(31, 61))

    assert similarity(rows, rows) == ([1.0, 1.0], [1.0, 1.0])


def test_the_reverse_is_as_far_as_can_be() -> None:
    """Of 30 items the 20 best of one side share 10 with the 20 best of the other."""
    ours, theirs = ranked(range(1, 31)), ranked(range(30, 0, -1))

    assert similarity(ours, theirs) == ([0.5], [-1.0])


def test_ranks_are_correlated_as_scipy_does_it() -> None:
    """The formula is the textbook's; so is the reference."""
    stats = pytest.importorskip("scipy.stats")
    rng = np.random.default_rng(1)
    ours, theirs = rng.permutation(np.arange(1, 41)), rng.permutation(np.arange(1, 41))

    place = {int(item): rank for rank, item in enumerate(theirs)}
    expected = stats.spearmanr(np.arange(40), [place[int(item)] for item in ours]).statistic
    assert similarity(ranked(ours), ranked(theirs))[1] == pytest.approx([expected])


def test_answers_without_an_item_in_common_have_no_correlation() -> None:
    """A made-up number would be averaged with the others."""
    assert similarity(ranked([1, 2, 3, 0]), ranked([4, 5, 6, 0])) == ([0.0], [])


class SlowRanker:
    """Answers when it is let."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, int]] = []
        self.may_answer = asyncio.Event()
        self.fails = False

    async def rank(
        self, inputs: Sequence[RankerInput], *, version: str, deadline_s: float
    ) -> Ranked:
        self.asked.append((version, len(inputs)))
        await self.may_answer.wait()
        if self.fails:
            raise RankerUnavailable("refused: a test")
        return ranked(*[[1, 2, 3]] * len(inputs))


def an_answer(users: int = 2, version: str = "1") -> Answer:
    rows = {f"u{number}": number for number in range(users)}
    return Answer(version, rows, [A_HISTORY] * users, ranked(*[[1, 2, 3]] * users))


def comparison(shadow: str | None = "3") -> tuple[SlowRanker, Scorecards, ShadowComparison]:
    ranker, cards = SlowRanker(), Scorecards(VersionMetrics(CollectorRegistry()))
    state = a_deployment(version="1", shadow=shadow)
    return ranker, cards, ShadowComparison(ranker, lambda: state, cards)


async def test_what_comes_while_it_is_asked_is_dropped() -> None:
    """A slow shadow must not pile up work on a machine that serves."""
    ranker, cards, shadow = comparison()
    for _ in range(3):
        shadow.compare([an_answer()])
        await asyncio.sleep(0)
    assert ranker.asked == [("3", 2)]

    ranker.may_answer.set()
    await asyncio.sleep(0.01)

    assert (cards.of("3").dropped, cards.of("3").compared) == (2, 2)
    assert list(cards.of("3").overlaps) == [1.0, 1.0]


async def test_a_large_batch_is_sampled_and_canary_users_are_left_out() -> None:
    """It is compared with the version that serves."""
    ranker, _, shadow = comparison()
    shadow.compare([an_answer(version="2"), an_answer(users=USERS + 5)])
    await asyncio.sleep(0)

    assert ranker.asked == [("3", USERS)]


async def test_a_shadow_that_fails_is_counted_and_hurts_nobody() -> None:
    """That is what it is tried for."""
    ranker, cards, shadow = comparison()
    ranker.fails = True
    ranker.may_answer.set()
    shadow.compare([an_answer()])
    await asyncio.sleep(0.01)

    assert cards.of("3").failures == {"refused": 1}


async def test_without_a_shadow_nobody_is_asked() -> None:
    """The usual state of things."""
    ranker, _, shadow = comparison(shadow=None)
    shadow.compare([an_answer()])
    await asyncio.sleep(0)

    assert ranker.asked == []
