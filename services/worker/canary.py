"""The canary's guard: a version on trial that fails, lies or dawdles is stopped at once."""

import asyncio
from collections.abc import Callable
from datetime import datetime

import numpy as np
import structlog

from services.errors import CommandFailed
from services.models.state import DeploymentFeed
from services.telemetry import VersionMetrics
from services.worker.scorecards import Scorecard, Scorecards
from stream.deployments import Deployment

MOST_FALLBACKS = 2  # of the newest requests (`scorecards.TRIALS`) that the canary alone fails
LEAST_ANSWERS = 30  # before its latency is judged
TIMES_SLOWER = 2.0
FLOOR_S = 0.05  # faster than this is fast enough, however fast the serving version is
WRITE_AGAIN_AFTER_S = 1.0

log = structlog.get_logger()


def fault(canary: Scorecard, serving: Scorecard) -> str | None:
    """What is wrong with a canary beside the version that serves, in words; None if nothing is."""
    if canary.failures["malformed"]:
        return "its values are wrong"
    if (failed := sum(canary.fell_back)) > MOST_FALLBACKS:
        return f"{failed} of {len(canary.fell_back)} requests failed"
    if len(canary.seconds) >= LEAST_ANSWERS:
        allowed_s = max(TIMES_SLOWER * _p95(serving), FLOOR_S)
        if (seconds := _p95(canary)) > allowed_s:
            return f"p95 is {seconds * 1000:.0f} ms, allowed are {allowed_s * 1000:.0f}"
    return None


def _p95(card: Scorecard) -> float:
    return float(np.percentile(card.seconds, 95)) if card.seconds else 0.0


class CanaryGuard:
    """
    Stands between the feed and the pipeline, and takes a canary away that is at fault.

    This worker stops using it at once. It then tells all others, and goes on telling until it
    reads on `deployments.v1` that there is no such canary any more.

    Args:
        feed: What `deployments.v1` says.
        announce: Writes a state there; blocks; raises `CommandFailed`.
        me: This worker's name, for the reason that people read.
        now: The clock.
    """

    def __init__(
        self,
        feed: DeploymentFeed,
        scorecards: Scorecards,
        metrics: VersionMetrics,
        *,
        announce: Callable[[Deployment], None],
        me: str,
        now: Callable[[], datetime],
    ) -> None:
        self._feed = feed
        self._scorecards = scorecards
        self._metrics = metrics
        self._announce = announce
        self._me = me
        self._now = now
        self._condemned: str | None = None  # a version
        self._telling: asyncio.Task[None] | None = None

    def current(self) -> Deployment | None:
        """The state that the pipeline goes by. Call it inside the event loop."""
        deployment = self._feed.current()
        version = _canary_of(deployment)
        if self._condemned is not None and version != self._condemned:
            self._scorecards.forget(self._condemned)  # another trial starts afresh
            self._condemned = None
        if deployment is None or version is None:
            return deployment
        if self._condemned is None and (reason := self._fault(version, deployment.version)):
            self._condemned = version
            self._metrics.rolled_back(version)
            log.error("canary_rolled_back", version=version, reason=reason)
            self._telling = asyncio.create_task(self._tell(version, reason))
        if self._condemned == version:
            return deployment.model_copy(update={"canary": None})
        return deployment

    def close(self) -> None:
        """Tell nobody any more."""
        if self._telling is not None:
            self._telling.cancel()

    def _fault(self, canary: str, serving: str) -> str | None:
        return fault(self._scorecards.of(canary), self._scorecards.of(serving))

    async def _tell(self, version: str, reason: str) -> None:
        text = f"canary {version} was rolled back by {self._me}: {reason}"
        while (deployment := self._feed.current()) and _canary_of(deployment) == version:
            try:
                state = deployment.try_on(None, now=self._now(), reason=text)
                await asyncio.to_thread(self._announce, state)
            except CommandFailed as error:  # another was faster, or Kafka is away
                log.warning("rollback_not_announced", version=version, reason=error.message)
            await asyncio.sleep(WRITE_AGAIN_AFTER_S)


def _canary_of(deployment: Deployment | None) -> str | None:
    return deployment.canary.version if deployment and deployment.canary else None
