"""
Metrics. Every metric's name is in this file, and nowhere else.

A process makes one metrics object and hands its methods to whoever measures, so that ``stream``
and ``features`` import nothing of this.
"""

from collections.abc import Mapping
from functools import cache

from prometheus_client import (
    REGISTRY,
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
)

from stream.deployments import Deployment

STAGES = (
    *("decode", "read", "fold", "rank", "retrieve", "signals", "write"),
    *("slate", "publish", "mark"),
)
OUTCOMES = ("folded", "duplicate", "late", "rekeyed", "dead_lettered")

# 0.1 ms to 10 s: a stage is tens of microseconds an event, and a stuck server is seconds.
SECONDS = (
    *(0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01),
    *(0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0),
)
SHARES = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 1.0)
# From a click that has just happened to a replay of last year.
AGES = (0.1, 0.5, 1.0, 5.0, 30.0, 60.0, 300.0, 3_600.0, 86_400.0, 604_800.0)
EVENTS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)


class WorkerMetrics:
    """What a worker counts, ``headrace_*``."""

    def __init__(self, registry: CollectorRegistry = REGISTRY) -> None:
        self._events = Counter(
            "headrace_events_total",
            "Events settled, by what became of them.",
            ["outcome"],
            registry=registry,
        )
        self._slates = Counter(
            "headrace_slates_total",
            "Slates published, by the strategy that made them.",
            ["strategy"],
            registry=registry,
        )
        self._stage = Histogram(
            "headrace_stage_seconds",
            "Time of one stage of one micro-batch.",
            ["stage"],
            buckets=SECONDS,
            registry=registry,
        )
        self._batch = Histogram(
            "headrace_batch_events", "Events in a micro-batch.", buckets=EVENTS, registry=registry
        )
        self._event_to_result = Histogram(
            "headrace_event_to_result_seconds",
            "From the broker's timestamp of an event to the acknowledgement of its slate.",
            buckets=SECONDS,
            registry=registry,
        )
        self._slate_age = Histogram(
            "headrace_slate_age_seconds",
            "Age of the newest event in a slate when the slate was published.",
            buckets=AGES,
            registry=registry,
        )
        self._degraded = Counter(
            "headrace_degraded_slates_total",
            "Slates of users with a history whom no version of the model has ranked.",
            registry=registry,
        )
        self._catalogue_items = Gauge(
            "headrace_catalogue_items", "Items that this worker knows.", registry=registry
        )
        self._collisions = Counter(
            "headrace_item_key_collisions_total",
            "Pairs of item ids with the same item key.",
            registry=registry,
        )
        self._items_refused = Counter(
            "headrace_items_refused_total",
            "Records of items.v1 that are not items.",
            registry=registry,
        )
        self._lag = Gauge(
            "headrace_consumer_lag_records",
            "Records on a partition that this worker has not settled.",
            ["topic", "partition"],
            registry=registry,
        )
        self._lagging: dict[str, frozenset[int]] = {}
        self._dependency = Gauge(
            "headrace_dependency_works",
            "1 while what the worker works with does, by its own answer; else 0.",
            ["dependency"],
            registry=registry,
        )
        # The client's own look-up takes longer than the counting, with every stage and slate.
        self._events_with = cache(self._events.labels)
        self._slates_with = cache(self._slates.labels)
        self._stage_with = cache(self._stage.labels)
        # A rate() needs the zero before the first event, so known labels exist from the start.
        for outcome in OUTCOMES:
            self._events_with(outcome)
        for stage in STAGES:
            self._stage_with(stage)

    def count_events(self, outcome: str, count: int = 1) -> None:
        """Count events by one of `OUTCOMES`."""
        self._events_with(outcome).inc(count)

    def count_slates(self, strategy: str, count: int) -> None:
        """Count published slates."""
        self._slates_with(strategy).inc(count)

    def count_degraded(self, slates: int) -> None:
        """Count slates that the ranker should have made, and has not."""
        self._degraded.inc(slates)

    def observe_slate_age(self, seconds: float) -> None:
        """Record how old the newest event in a slate is."""
        self._slate_age.observe(seconds)

    def observe_stage(self, stage: str, seconds: float) -> None:
        """Record how long one of `STAGES` took for one micro-batch."""
        self._stage_with(stage).observe(seconds)

    def observe_batch(self, events: int) -> None:
        """Record the size of a micro-batch."""
        self._batch.observe(events)

    def observe_event_to_result(self, seconds: float) -> None:
        """Record one event's way from the broker's timestamp to the acknowledged slate."""
        self._event_to_result.observe(seconds)

    def set_catalogue_items(self, items: int) -> None:
        """Say how many items are in the catalogue."""
        self._catalogue_items.set(items)

    def count_items_refused(self) -> None:
        """Count a record of the catalogue that is no item."""
        self._items_refused.inc()

    def count_item_key_collision(self) -> None:
        """Count two item ids that share a key."""
        self._collisions.inc()

    def set_dependency(self, name: str, works: bool) -> None:
        """Say whether Redis, say, has just done what the worker needs of it."""
        self._dependency.labels(name).set(works)

    def set_lags(self, topic: str, lags: Mapping[int, int]) -> None:
        """Say how far behind the end of each of its partitions of *topic* this worker is."""
        for partition, records in lags.items():
            self._lag.labels(topic, str(partition)).set(records)
        # A partition that another worker has now would look as if it stood still here.
        for partition in self._lagging.get(topic, frozenset()) - lags.keys():
            self._lag.remove(topic, str(partition))
        self._lagging[topic] = frozenset(lags)


class VersionMetrics:
    """What a worker counts of each version of the model."""

    def __init__(self, registry: CollectorRegistry = REGISTRY) -> None:
        self._slates = Counter(
            "headrace_version_slates_total",
            "Slates published, by the version that made them.",
            ["version"],
            registry=registry,
        )
        self._requests = Counter(
            "headrace_ranker_requests_total",
            "Micro-batches, or parts of one, that a version was asked to rank.",
            ["version"],
            registry=registry,
        )
        self._unavailable = Counter(
            "headrace_ranker_unavailable_total",
            "Those that it did not answer, by reason.",
            ["version", "reason"],
            registry=registry,
        )
        self._seconds = Histogram(
            "headrace_ranker_seconds",
            "Time in which a version answered.",
            ["version"],
            buckets=SECONDS,
            registry=registry,
        )
        self._fallbacks = Counter(
            "headrace_canary_fallbacks_total",
            "Requests that a canary failed and the serving version answered.",
            ["version"],
            registry=registry,
        )
        self._rollbacks = Counter(
            "headrace_canary_rollbacks_total",
            "Canaries that this worker has stopped using.",
            ["version"],
            registry=registry,
        )
        self._overlap = Histogram(
            "headrace_shadow_overlap",
            "Share of a user's top 20 that shadow and serving version have in common.",
            ["version"],
            buckets=SHARES,
            registry=registry,
        )
        self._correlation = Histogram(
            "headrace_shadow_correlation",
            "Spearman's rank correlation of the items that both have ranked.",
            ["version"],
            buckets=SHARES,
            registry=registry,
        )
        self._dropped = Counter(
            "headrace_shadow_dropped_total",
            "Micro-batches that the shadow was too slow to be asked about.",
            ["version"],
            registry=registry,
        )
        self._revision = Gauge(
            "headrace_deployment_revision",
            "The revision of deployments.v1 that is followed.",
            ["model"],
            registry=registry,
        )
        self._circuit_open = Gauge(
            "headrace_ranker_circuit_open",
            "1 while a version is not asked because it did not answer, and is probed; else 0.",
            ["version"],
            registry=registry,
        )
        self._version = Gauge(
            "headrace_model_version", "The serving version.", ["model"], registry=registry
        )
        self._since = Gauge(
            "headrace_model_since_timestamp_seconds",
            "Since when it serves; after a start, when the state was last changed.",
            ["model"],
            registry=registry,
        )
        self._serves: dict[str, str] = {}
        self._slates_with = cache(self._slates.labels)

    def count_slates(self, version: str, count: int) -> None:
        """Count slates that *version* made."""
        self._slates_with(version).inc(count)

    def answered(self, version: str, seconds: float) -> None:
        """Count an answered request."""
        self._requests.labels(version).inc()
        self._seconds.labels(version).observe(seconds)

    def failed(self, version: str, reason: str) -> None:
        """Count a failed request; *reason* is one of few words, never a message."""
        self._requests.labels(version).inc()
        self._unavailable.labels(version, reason).inc()

    def circuit_opened(self, version: str, is_open: bool) -> None:
        """Say whether a version is left alone, or asked as usual."""
        self._circuit_open.labels(version).set(is_open)

    def fell_back(self, version: str) -> None:
        """Count a request that the serving version answered in place of the canary."""
        self._fallbacks.labels(version).inc()

    def rolled_back(self, version: str) -> None:
        """Count a canary that was found bad."""
        self._rollbacks.labels(version).inc()

    def compared(self, version: str, overlaps: list[float], correlations: list[float]) -> None:
        """Record how near a shadow's answers are, user by user."""
        for overlap in overlaps:
            self._overlap.labels(version).observe(overlap)
        for correlation in correlations:
            self._correlation.labels(version).observe(correlation)

    def dropped(self, version: str) -> None:
        """Count a micro-batch that was not compared."""
        self._dropped.labels(version).inc()

    def follow(self, state: Deployment) -> None:
        """Record who serves now, and since when."""
        self._version.labels(state.model).set(int(state.version))
        self._revision.labels(state.model).set(state.revision)
        if self._serves.get(state.model) != state.version:  # and not only a canary has changed
            self._serves[state.model] = state.version
            self._since.labels(state.model).set(state.changed_at.timestamp())


class ArchiverMetrics:
    """What an archiver counts, ``headrace_archive_*``."""

    def __init__(self, registry: CollectorRegistry = REGISTRY) -> None:
        self._records = Counter(
            "headrace_archive_records_total", "Records in finished files.", registry=registry
        )
        self._files = Counter("headrace_archive_files_total", "Finished files.", registry=registry)
        self._bytes = Counter(
            "headrace_archive_bytes_total", "Bytes in finished files.", registry=registry
        )
        self._flush = Histogram(
            "headrace_archive_flush_seconds",
            "Time to write, sync and rename one file.",
            buckets=SECONDS,
            registry=registry,
        )
        self._next_offset = Gauge(
            "headrace_archive_next_offset",
            "First offset of a partition that is not in the archive.",
            ["topic", "partition"],
            registry=registry,
        )
        self._unfinished = Gauge(
            "headrace_archive_unfinished_records",
            "Records read that are not in a file yet.",
            registry=registry,
        )
        self._partitions = Gauge(
            "headrace_archive_partitions", "Partitions assigned.", registry=registry
        )

    def count_file(self, records: int, size_bytes: int, seconds: float) -> None:
        """Count one finished file."""
        self._records.inc(records)
        self._files.inc()
        self._bytes.inc(size_bytes)
        self._flush.observe(seconds)

    def set_next_offset(self, topic: str, partition: int, offset: int) -> None:
        """Say where the archive of a partition ends."""
        self._next_offset.labels(topic, str(partition)).set(offset)

    def set_unfinished(self, records: int) -> None:
        """Say how many records wait in memory."""
        self._unfinished.set(records)

    def set_partitions(self, count: int) -> None:
        """Say how many partitions are assigned."""
        self._partitions.set(count)


class TrainerMetrics:
    """What the trainer counts, ``headrace_trainer_*``."""

    def __init__(self, registry: CollectorRegistry = REGISTRY) -> None:
        self._runs = Counter(
            "headrace_trainer_runs_total", "Runs, by outcome.", ["outcome"], registry=registry
        )
        self._last_run = Gauge(
            "headrace_trainer_last_run_timestamp_seconds",
            "When the last run ended.",
            registry=registry,
        )
        self._duration = Gauge(
            "headrace_trainer_last_run_seconds", "How long it took.", registry=registry
        )
        self._quality = Gauge(
            "headrace_trainer_quality",
            "Of the newest version, on the part of the log that it had not learnt yet.",
            ["metric"],
            registry=registry,
        )
        for outcome in ("deployed", "refused", "not_trained"):
            self._runs.labels(outcome)

    def count_run(self, outcome: str, seconds: float) -> None:
        """Count a run that has ended now."""
        self._runs.labels(outcome).inc()
        self._duration.set(seconds)
        self._last_run.set_to_current_time()

    def set_quality(self, metrics: Mapping[str, float]) -> None:
        """Say how good the newest version is."""
        for name, value in metrics.items():
            self._quality.labels(name).set(value)
