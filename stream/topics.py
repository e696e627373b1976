"""The one table of topics: name, key, partitions, retention, compaction and largest record."""

from dataclasses import dataclass

KIB = 1024
HOUR_MS = 60 * 60 * 1000
DAY_MS = 24 * HOUR_MS

EVENTS = "events.v1"
ITEMS = "items.v1"
RECOMMENDATIONS = "recommendations.v1"
SIGNALS = "signals.v1"
DEPLOYMENTS = "deployments.v1"
REPORTS = "reports.v1"
TRACE = "trace.v1"
EVENTS_DLQ = "events.v1.dlq"

EVENT_PARTITIONS = 8
SIGNAL_PARTITIONS = 8


@dataclass(frozen=True)
class Topic:
    """One topic as it is created."""

    name: str
    key: str
    written_by: str
    partitions: int
    max_record_bytes: int = 1024 * KIB
    retention_ms: int = -1
    compacted: bool = False
    log_append_time: bool = False
    segment_bytes: int | None = None  # Kafka deletes whole ones; None: as the broker has it

    def config(self) -> dict[str, str]:
        """The topic-level Kafka configuration."""
        segments = {"segment.bytes": str(self.segment_bytes)} if self.segment_bytes else {}
        return {
            **segments,
            "cleanup.policy": "compact" if self.compacted else "delete",
            "retention.ms": str(self.retention_ms),
            "max.message.bytes": str(self.max_record_bytes),
            "message.timestamp.type": "LogAppendTime" if self.log_append_time else "CreateTime",
        }


TOPICS = {
    topic.name: topic
    for topic in (
        Topic(
            EVENTS,
            key="user_id",
            written_by="storefront",
            partitions=EVENT_PARTITIONS,
            retention_ms=30 * DAY_MS,
            # The far-future rule compares with this, so it must be the broker's clock.
            log_append_time=True,
        ),
        Topic(ITEMS, key="item_id", written_by="catalogue", partitions=4, compacted=True),
        Topic(
            RECOMMENDATIONS,
            key="user_id",
            written_by="worker",
            partitions=EVENT_PARTITIONS,
            compacted=True,
        ),
        # Item statistics are folded again from these, as users' rows are from events.
        Topic(
            SIGNALS,
            key="partition",
            written_by="worker",
            partitions=SIGNAL_PARTITIONS,
            max_record_bytes=4096 * KIB,  # one holds what a whole micro-batch says
            retention_ms=30 * DAY_MS,
        ),
        Topic(DEPLOYMENTS, key="model name", written_by="CLI", partitions=1, compacted=True),
        # Only the newest ones are ever read.
        Topic(
            REPORTS,
            key="worker",
            written_by="worker",
            partitions=1,
            retention_ms=HOUR_MS,
            segment_bytes=16 * 1024 * KIB,
        ),
        Topic(
            TRACE,
            key="user_id",
            written_by="worker",
            partitions=EVENT_PARTITIONS,
            retention_ms=7 * DAY_MS,
        ),
        # A letter holds what was refused and why, so it must be larger than any event.
        Topic(
            EVENTS_DLQ,
            key="as the source",
            written_by="worker",
            partitions=EVENT_PARTITIONS,
            max_record_bytes=2048 * KIB,
            retention_ms=30 * DAY_MS,
        ),
    )
}


def with_prefix(prefix: str, name: str) -> str:
    """The name of a topic, consumer group or Feast project on a shared cluster."""
    return f"{prefix}{name}"
