"""How the versions of a model are doing: the state, Triton, and what all workers report."""

import asyncio
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from confluent_kafka import Consumer, TopicPartition

from services.kafka.publishing import require_topic
from services.models.control import ready_versions
from services.models.serving import Serving
from stream import topics
from stream.deployments import Deployment
from stream.ranking import RankerUnavailable
from stream.reports import VersionReport, WorkerReport

FRESH_S = 10.0  # a worker reports every two seconds: one that has not for so long is gone
READ_WITHIN_S = 5.0


@dataclass(frozen=True)
class Performance:
    """One version, all workers together."""

    slates: int
    requests: int
    failures: Mapping[str, int]
    p50_ms: float | None
    p99_ms: float | None
    compared: int
    dropped: int
    overlap_at_20: float | None
    correlation: float | None


@dataclass(frozen=True)
class ModelStatus:
    """Everything that `headrace model status` shows."""

    state: Deployment | None
    loaded: tuple[str, ...] | None  # None: Triton does not answer
    workers: Mapping[str, int | None]  # the revision that each follows
    versions: Mapping[str, Performance]


def model_status(serving: Serving) -> ModelStatus:
    """The model's status now. Raises `CommandFailed` if Kafka cannot be reached."""
    reports = newest_reports(serving)
    found = sorted({version for report in reports for version in report.versions}, key=int)
    return ModelStatus(
        state=serving.state(),
        loaded=asyncio.run(_loaded(serving)),
        workers={report.worker: report.revision for report in reports},
        versions={version: performance(of_version(reports, version)) for version in found},
    )


async def _loaded(serving: Serving) -> tuple[str, ...] | None:
    try:
        return await ready_versions(serving.triton_address, serving.model)
    except RankerUnavailable:
        return None


def of_version(reports: list[WorkerReport], version: str) -> list[VersionReport]:
    """What those workers say that know *version*."""
    return [report.versions[version] for report in reports if version in report.versions]


def performance(reports: list[VersionReport]) -> Performance:
    """Put the reports of several workers together; there is at least one."""
    recent_ms = [value for report in reports for value in report.recent_ms]
    p50, p99 = np.percentile(recent_ms, [50, 99]).tolist() if recent_ms else (None, None)
    failures: Counter[str] = Counter()
    for report in reports:
        failures.update(report.failures)
    return Performance(
        slates=sum(report.slates for report in reports),
        requests=sum(report.requests for report in reports),
        failures=dict(failures),
        p50_ms=p50,
        p99_ms=p99,
        compared=sum(report.compared for report in reports),
        dropped=sum(report.dropped for report in reports),
        overlap_at_20=_mean([(one.overlap_at_20, one.compared) for one in reports]),
        correlation=_mean([(one.correlation, one.compared) for one in reports]),
    )


def _mean(weighted: list[tuple[float | None, int]]) -> float | None:
    known = [(value, weight) for value, weight in weighted if value is not None]
    total = sum(weight for _, weight in known)
    return sum(value * weight for value, weight in known) / total if total else None


def newest_reports(serving: Serving) -> list[WorkerReport]:
    """The last report of each worker that lives. Raises `CommandFailed` without Kafka."""
    topic = serving.topic(topics.REPORTS)
    consumer = Consumer(
        {
            **serving.kafka.config(),
            "group.id": f"headrace-read-{topic}",  # required by the library; never joined
            "enable.auto.commit": False,
            "log_level": 0,
        }
    )
    try:
        require_topic(consumer, serving.kafka, topic)
        newest: dict[str, WorkerReport] = {}
        for report in _since(consumer, topic, time.time() - FRESH_S):
            if report.model == serving.model:
                newest[report.worker] = report
    finally:
        consumer.close()
    return [newest[worker] for worker in sorted(newest)]


def _since(consumer: Consumer, topic: str, epoch_s: float) -> list[WorkerReport]:
    asked = TopicPartition(topic, 0, int(epoch_s * 1000))
    (start,) = consumer.offsets_for_times([asked], timeout=READ_WITHIN_S)
    _, end = consumer.get_watermark_offsets(TopicPartition(topic, 0), timeout=READ_WITHIN_S)
    if not 0 <= start.offset < end:
        return []
    consumer.assign([start])
    found, deadline_s = [], time.monotonic() + READ_WITHIN_S
    while time.monotonic() < deadline_s:
        message = consumer.poll(0.5)
        if message is None or message.error() is not None:
            continue
        found.append(WorkerReport.model_validate_json(message.value() or b""))
        if (message.offset() or 0) + 1 >= end:
            break
    return found
