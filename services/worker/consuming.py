"""Feeding the pipeline: a Faust app in the consumer group, from its start to its end."""

import asyncio
import gc
import os
import signal
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from typing import Any

import structlog

from features.store import StoreError
from services.health import Check, Health
from services.kafka.follow import Follower
from services.settings import WorkerSettings
from services.telemetry import WorkerMetrics
from services.worker.credentials import faust_credentials
from services.worker.item_statistics import BATCH, WRITE_EVERY_S
from services.worker.silence import Silence, ends_of
from stream import topics
from stream.agents import add_keep_items, add_refresh_slates, new_app
from stream.consume import Handle, MicroBatches
from stream.item_statistics import ItemStatistics
from stream.marks import require_no_older, take_over
from stream.pipeline import Pipeline
from stream.topics import with_prefix

log = structlog.get_logger()

LOOK_AT_MARKS_EVERY_S = 5.0
GC_THRESHOLD = 50_000  # objects: micro-batches at work have as many, which die with them


async def consume(
    settings: WorkerSettings,
    *,
    pipeline: Pipeline,
    handle: Handle,
    statistics: ItemStatistics,
    followers: Sequence[Follower],
    metrics: WorkerMetrics,
    replaced: Callable[[], bool],
    health: Health,
    checks: Callable[..., Sequence[Check]],
) -> None:
    """
    Handle events and signals until SIGTERM, or until *replaced* says that this state is no longer
    the one that is used.

    Args:
        pipeline: Whose rows and marks say where the partitions of `events.v1` begin.
        handle: Takes micro-batches of `events.v1`.
        statistics: Takes micro-batches of `signals.v1`.
        followers: Of broadcast topics; what ends one of them ends this.
        checks: What the process depends on, given whether it has been assigned its partitions.

    Raises:
        ConsumerHangs: If the consumer fetches nothing any more while Kafka answers.
        StateMoved: If the store has come back older, be it while no record comes.
        Exception: Whatever ended a micro-batch, a follower or the app. Nothing of that batch is
            committed.
    """
    app = new_app(
        group=with_prefix(settings.prefix, settings.worker_group),
        kafka_servers=settings.kafka_servers,
        instance_id=settings.worker_instance_id,
        session_timeout_s=settings.worker_session_timeout_s,
        directory=settings.data_dir / "faust",
        credentials=faust_credentials(settings.kafka),
    )
    batches = add_refresh_slates(
        app,
        topic=with_prefix(settings.prefix, topics.EVENTS),
        handle=health.watching(handle),
        take_over=partial(take_over, pipeline.store, pipeline.marks),
        batch_size=settings.batch_size,
        lanes=settings.batches_in_flight,
        on_ready=settings.ready_file.touch if settings.ready_file else None,
    )
    items = add_keep_items(
        app,
        topic=with_prefix(settings.prefix, topics.SIGNALS),
        handle=statistics.keep,
        take_over=statistics.take_over,
        batch_size=BATCH,
        every_s=WRITE_EVERY_S,
    )
    stopping = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stopping.set)
    await app.start()
    # What lives from here on lives long: the collector need not look at it again.
    gc.collect()
    gc.freeze()
    gc.set_threshold(GC_THRESHOLD)
    asking = asyncio.create_task(
        health.keep_asking(checks(assigned=lambda: batches.assigned), metrics.set_dependency)
    )
    listening = asyncio.create_task(_silence(settings, app, pipeline).listen())
    looking = asyncio.create_task(_look_at_marks(pipeline, statistics))
    try:
        # When a rebuilt state goes live we end, and whoever restarts us starts us on that one.
        while not (stopping.is_set() or app.crashed or replaced()):
            health.beat()
            if listening.done():
                # Said at once: to stop what hangs may be the end of the process.
                log.error("consumer_hangs", reason=str(listening.exception()))
                listening.result()
            if looking.done():
                looking.result()
            for follower in followers:
                follower.check()
            metrics.set_lags(topics.EVENTS, batches.lag())
            metrics.set_lags(topics.SIGNALS, items.lag())
            with suppress(TimeoutError):
                await asyncio.wait_for(stopping.wait(), timeout=0.2)
    finally:
        asking.cancel()
        listening.cancel()
        looking.cancel()
        await _stop_in_time(app, (batches, items), settings.worker_stop_timeout_s)
    # Faust calls it a crash if our end, or a rebalance, cuts a fetch short.
    cut_short = isinstance(app.crash_reason, asyncio.CancelledError)
    if app.crashed and not (cut_short and stopping.is_set()):
        reason = None if cut_short else app.crash_reason
        raise reason or RuntimeError("the Faust app crashed")


def _silence(settings: WorkerSettings, app: Any, pipeline: Pipeline) -> Silence:
    topic = with_prefix(settings.prefix, topics.EVENTS)

    def positions() -> dict[int, int]:
        # Between two assignments the marks are those of the first.
        mine = {tp.partition for tp in app.consumer.assignment() if tp.topic == topic}
        return {p: at for p, at in pipeline.marks.positions().items() if p in mine}

    return Silence(
        ends=ends_of(settings.kafka, topic, pipeline.rules.partitions),
        fetched_s=lambda: app.consumer.fetched_s,
        positions=positions,
    )


async def _look_at_marks(pipeline: Pipeline, statistics: ItemStatistics) -> None:
    """A partition without news would learn of a store that is older with its next record only."""
    while True:
        await asyncio.sleep(LOOK_AT_MARKS_EVERY_S)
        with suppress(StoreError):  # batches complain of that, and the readiness
            await require_no_older(pipeline.store, pipeline.marks)
            await statistics.require_no_older()


async def _stop_in_time(app: Any, batches: Sequence[MicroBatches], within_s: float) -> None:
    """
    Stop *app*, or the process if that takes too long: nothing is lost, some of it is repeated.

    aiokafka may wait for ever for a coordinator once Kafka has died under it, its thread with it.
    """
    stopping = asyncio.create_task(_stop(app, batches))
    done, _ = await asyncio.wait({stopping}, timeout=within_s)
    if not done:
        reason = f"the Kafka consumer has not stopped within {within_s:g} s"
        log.error("ended_at_once", reason=reason, failed_before=repr(app.crash_reason))
        os._exit(1)  # a normal end would wait for that thread
    await stopping


async def _stop(app: Any, batches: Sequence[MicroBatches]) -> None:
    if not app.crashed:
        await asyncio.gather(*(one.settle() for one in batches))
    await app.stop()
