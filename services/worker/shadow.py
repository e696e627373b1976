"""A shadow version: asked what the serving one was asked, and compared; nobody sees it."""

import asyncio
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import structlog
from numpy.typing import NDArray

from services.worker.scorecards import Scorecards
from stream.deployments import Deployment
from stream.keys import PADDING_KEY
from stream.ranking import Answer, Ranked, Ranker, RankerUnavailable

USERS = 32  # of a micro-batch, at most: enough to compare, and cheap
DEADLINE_S = 2.0  # nobody waits for it
TOP = 20
FEWEST_IN_COMMON = 3  # items, below which a correlation says nothing

log = structlog.get_logger()


class ShadowComparison:
    """
    `stream.pipeline.Shadow`: one comparison at a time, and what comes meanwhile is dropped.

    Args:
        ranker: Who is asked.
        deployment: The state now, which names the shadow, if there is one.
        scorecards: Where the result goes.
    """

    def __init__(
        self,
        ranker: Ranker,
        deployment: Callable[[], Deployment | None],
        scorecards: Scorecards,
    ) -> None:
        self._ranker = ranker
        self._deployment = deployment
        self._scorecards = scorecards
        self._asking: asyncio.Task[None] | None = None

    def compare(self, answers: Sequence[Answer]) -> None:
        """Compare with what the serving version answered, in the background."""
        deployment = self._deployment()
        if deployment is None or deployment.shadow is None:
            return
        for answer in answers:
            if answer.version == deployment.version:
                self._start(deployment.shadow, answer)

    def close(self) -> None:
        """Ask nothing more."""
        if self._asking is not None:
            self._asking.cancel()

    def _start(self, shadow: str, served: Answer) -> None:
        if self._asking is not None and not self._asking.done():
            self._scorecards.dropped(shadow)
            return
        self._asking = asyncio.create_task(self._ask(shadow, served))

    async def _ask(self, shadow: str, served: Answer) -> None:
        inputs = served.histories[:USERS]
        loop = asyncio.get_running_loop()
        began_s = loop.time()
        try:
            ranked = await self._ranker.rank(inputs, version=shadow, deadline_s=DEADLINE_S)
        except RankerUnavailable as error:
            self._scorecards.failed(shadow, error.kind)
            log.warning("shadow_unavailable", version=shadow, reason=str(error))
            return
        self._scorecards.answered(shadow, loop.time() - began_s)
        self._scorecards.compared(shadow, *similarity(served.ranked, ranked))


def similarity(served: Ranked, shadow: Ranked) -> tuple[list[float], list[float]]:
    """
    How near two answers about the same users are.

    Args:
        served: ``(B', K)``; its first rows are compared.
        shadow: ``(B, K')``, B at most B'.

    Returns:
        For each user the share of the top 20 in common; and, for those with enough items that
        both have ranked, Spearman's correlation of their ranks.
    """
    pairs = [
        (ours[ours != PADDING_KEY], theirs[theirs != PADDING_KEY])
        for ours, theirs in zip(served.item_keys, shadow.item_keys, strict=False)
    ]
    return [_overlap(*pair) for pair in pairs], [rho for pair in pairs for rho in _spearman(*pair)]


def _overlap(ours: NDArray[np.int64], theirs: NDArray[np.int64]) -> float:
    return len(np.intersect1d(ours[:TOP], theirs[:TOP])) / min(TOP, max(1, len(ours)))


def _spearman(ours: NDArray[np.int64], theirs: NDArray[np.int64]) -> Iterator[float]:
    # Ranks have no ties, and so rho = 1 - 6 sum(d^2) / (n (n^2 - 1)).
    _, mine, yours = np.intersect1d(ours, theirs, return_indices=True)
    n = len(mine)
    if n >= FEWEST_IN_COMMON:
        apart = mine.argsort().argsort() - yours.argsort().argsort()
        yield 1 - 6 * float(apart @ apart) / (n * (n * n - 1))
