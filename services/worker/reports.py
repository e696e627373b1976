"""The worker's reports on the versions of the model: what `headrace model status` reads."""

import asyncio
from collections.abc import Callable, Collection
from datetime import datetime

import structlog
from confluent_kafka import KafkaException

from services.models.state import DeploymentFeed
from services.worker.scorecards import Scorecard, Scorecards
from stream import topics
from stream.pipeline import Publish
from stream.records import Outgoing
from stream.reports import VersionReport, WorkerReport

EVERY_S = 2.0

log = structlog.get_logger()


async def keep_reporting(
    feed: DeploymentFeed,
    scorecards: Scorecards,
    publish: Publish,
    *,
    model: str,
    me: str,
    now: Callable[[], datetime],
) -> None:
    """Publish a report on *model* every two seconds, until cancelled."""
    while True:
        state = feed.current()
        report = WorkerReport(
            worker=me,
            model=model,
            reported_at=now(),
            revision=state.revision if state else None,
            versions={version: version_report(card) for version, card in scorecards},
        )
        value = report.model_dump_json().encode()
        try:
            await publish([Outgoing(topics.REPORTS, me.encode(), value)])
        except KafkaException as error:  # events will tell if Kafka stays away
            log.warning("report_not_published", reason=str(error))
        await asyncio.sleep(EVERY_S)


def version_report(card: Scorecard) -> VersionReport:
    """What *card* says, in a form that can be put together with other workers'."""
    return VersionReport(
        slates=card.slates,
        requests=card.requests,
        failures=dict(card.failures),
        recent_ms=tuple(round(seconds * 1000, 1) for seconds in card.seconds),
        compared=card.compared,
        dropped=card.dropped,
        overlap_at_20=_mean(card.overlaps),
        correlation=_mean(card.correlations),
    )


def _mean(values: Collection[float]) -> float | None:
    return round(sum(values) / len(values), 4) if values else None
