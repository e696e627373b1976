"""The stream worker: what `stream.recommend` needs is made here, and a Faust app feeds it."""

import asyncio
import os
import socket
import sys
from contextlib import ExitStack
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING

import click
import structlog
import uvloop

from features.store import AsyncRows, FeatureRows, StoreError
from services import states
from services.connection import connect
from services.errors import CommandFailed
from services.health import Health, serve_http
from services.kafka.batch_publisher import BatchPublisher
from services.kafka.follow import Follower, OnRecord
from services.kafka.log_id import log_id
from services.log_lines import configure_logging
from services.models.state import DeploymentFeed, write_state
from services.models.towers import TritonTowers
from services.models.triton import TritonRanker
from services.settings import WorkerSettings
from services.telemetry import (
    VersionMetrics,
    WorkerMetrics,
)
from services.worker.broadcasts import CatalogueFeed
from services.worker.canary import CanaryGuard
from services.worker.checks import worker_checks
from services.worker.item_statistics import ItemViews, TrendingFeed
from services.worker.newcomers import NewcomerWatch, NewTexts, RankerWithNewcomers
from services.worker.reports import keep_reporting
from services.worker.scorecards import Scorecards
from services.worker.shadow import ShadowComparison
from stream import topics
from stream.catalogue import Catalogue
from stream.consume import Handle
from stream.deployments import Deployment
from stream.marks import LogMismatch, OwnMarks
from stream.pipeline import Pipeline, Rules
from stream.recommend import recommend
from stream.topics import with_prefix

if TYPE_CHECKING:
    from services.tracing import Tracing

log = structlog.get_logger()

CATCH_UP_S = 120.0
# A thread that has an answer for the event loop waits no longer for the interpreter than this. It
# is a tenth of Python's own, as the worker has some such threads: Kafka's and gRPC's.
SWITCH_INTERVAL_S = 0.0005


@click.command()
def worker() -> None:
    """
    Run one stream worker in the foreground.

    It joins the consumer group, takes its share of the partitions of events.v1, and pushes a
    refreshed slate for every event. Start as many as there are partitions, at most; SIGTERM ends
    one without losing or repeating anything. All its options are HEADRACE_* settings.
    """
    settings = connect(WorkerSettings)
    configure_logging(
        settings.log_format, settings.log_level, key=settings.log_key.get_secret_value()
    )
    sys.setswitchinterval(SWITCH_INTERVAL_S)
    uvloop.install()  # for Faust's thread as well, which makes an event loop of its own
    try:
        asyncio.run(_run(settings))
    except CommandFailed:
        raise  # one line: what is missing, and what to do
    except LogMismatch as error:
        raise CommandFailed(
            f"{error}. Run `headrace rebuild`: it folds the archive and what there is of the log."
        ) from error
    except Exception as error:
        # Not done: nothing of the batch is committed, so whoever restarts us reads it again.
        log.critical("worker_stopped", reason=f"{type(error).__name__}: {error}", exc_info=error)
        sys.exit(1)


async def _run(settings: WorkerSettings) -> None:
    from services.worker.consuming import consume  # Faust takes a second to import

    version_metrics = VersionMetrics()
    tracing = _tracing(settings)
    metrics = WorkerMetrics() if tracing is None else tracing.metrics()
    health = Health()
    serve_http(settings.metrics_port, settings.metrics_host, health)
    publish = BatchPublisher(settings.kafka, prefix=settings.prefix)
    partitions = publish.partitions_of(topics.EVENTS)
    state = await asyncio.to_thread(states.for_worker, settings, partitions)
    users = states.open_rows(settings, state.number)
    _require_redis(users, settings.redis_address)
    store = AsyncRows(users)
    live = states.StateFeed()
    catalogue, new_texts = Catalogue(), NewTexts()
    feed = DeploymentFeed(settings.model_name, partial(_followed, version_metrics))
    with ExitStack() as following:
        followers = [
            following.enter_context(Follower(settings.kafka, topic, on_record))
            for topic, on_record in (
                (
                    with_prefix(settings.prefix, topics.ITEMS),
                    CatalogueFeed(catalogue, new_texts, metrics).take,
                ),
                (with_prefix(settings.prefix, topics.DEPLOYMENTS), _both(feed.take, live.take)),
            )
        ]
        for follower in followers:
            await asyncio.to_thread(follower.start, CATCH_UP_S)
        log.info("catalogue_read", items=len(catalogue))
        triton = TritonRanker(
            settings.triton_address,
            model_name=settings.model_name,
            circuit_opened=version_metrics.circuit_opened,
        )
        towers = TritonTowers(settings.triton_address)
        newcomers = NewcomerWatch(new_texts, towers, partial(_in_use, feed))
        ranker = RankerWithNewcomers(triton, newcomers)
        now = partial(datetime.now, UTC)
        me = settings.worker_instance_id or f"{socket.gethostname()}-{os.getpid()}"
        scorecards = Scorecards(version_metrics)
        deployments = with_prefix(settings.prefix, topics.DEPLOYMENTS)
        guard = CanaryGuard(
            feed,
            scorecards,
            version_metrics,
            announce=partial(write_state, settings.kafka, deployments),
            me=me,
            now=now,
        )
        shadow = ShadowComparison(ranker, guard.current, scorecards)
        views = ItemViews(users)
        trending = TrendingFeed(views)
        pipeline = Pipeline(
            store=store,
            marks=OwnMarks(log_id(settings.kafka, with_prefix(settings.prefix, topics.EVENTS))),
            ranker=ranker,
            publish=publish if tracing is None else tracing.publishing(publish),
            catalogue=catalogue,
            deployment=guard.current,
            versions=scorecards,
            shadow=shadow,
            items=views.read,
            trending=trending.current,
            rules=_rules(settings, partitions),
            observe=metrics,
            now=now,
        )
        reporting = asyncio.create_task(
            keep_reporting(feed, scorecards, publish, model=settings.model_name, me=me, now=now)
        )
        following_newcomers = asyncio.create_task(newcomers.keep())
        following_trends = asyncio.create_task(trending.keep())
        statistics = views.owner(
            settings.kafka,
            with_prefix(settings.prefix, topics.SIGNALS),
            category_of=catalogue.category_of,
            in_memory=settings.items_in_memory,
        )
        try:
            replaced = partial(states.replaced, state, live)
            checks = partial(
                worker_checks,
                store=store,
                publish=publish,
                ranker=triton,
                deployment=guard.current,
            )
            handle: Handle = partial(recommend, pipeline)
            await consume(
                settings,
                pipeline=pipeline,
                handle=handle if tracing is None else tracing.handling(handle),
                statistics=statistics,
                followers=followers,
                metrics=metrics,
                replaced=replaced,
                health=health,
                checks=checks,
            )
        finally:
            reporting.cancel()
            following_newcomers.cancel()
            following_trends.cancel()
            shadow.close()
            guard.close()
            await towers.close()
            await triton.close()
            if tracing is not None:
                await asyncio.to_thread(tracing.close)
    await store.aclose()
    users.close()


def _tracing(settings: WorkerSettings) -> "Tracing | None":
    """None unless asked for: then nothing of OpenTelemetry is even imported."""
    if not settings.otlp_endpoint:
        return None
    from services.tracing import Tracing

    return Tracing.to(settings.otlp_endpoint)


def _both(first: OnRecord, second: OnRecord) -> OnRecord:
    def take(key: bytes, value: bytes | None, partition: int, offset: int) -> None:
        first(key, value, partition, offset)
        second(key, value, partition, offset)

    return take


def _in_use(feed: DeploymentFeed) -> tuple[str, ...]:
    state = feed.current()
    return state.versions if state else ()


def _followed(metrics: VersionMetrics, state: Deployment) -> None:
    metrics.follow(state)
    log.info(
        "deployment_followed",
        model=state.model,
        revision=state.revision,
        version=state.version,
        canary=state.canary and state.canary.version,
        shadow=state.shadow,
        reason=state.reason,
    )


def _require_redis(store: FeatureRows[str], address: str) -> None:
    """Say that there is none now, and not at the first event."""
    try:
        store.read_marks([0])
    except StoreError as error:
        host = address.partition(",")[0]  # a password may follow
        raise CommandFailed(
            f"no Redis at {host} ({error}). Start `headrace up`, or set HEADRACE_REDIS_ADDRESS."
        ) from error


def _rules(settings: WorkerSettings, partitions: int) -> Rules:
    return Rules(
        slate_size=settings.slate_size,
        surface=settings.surface,
        hide_bought=settings.hide_bought,
        max_ahead_ms=round(settings.max_ahead_s * 1000),
        ranker_deadline_s=settings.triton_deadline_ms / 1000,
        partitions=partitions,
        trace_share=settings.trace_share,
    )
