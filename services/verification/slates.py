"""Slates made again from what trace.v1 has of them, against what was published."""

from collections import defaultdict
from dataclasses import dataclass, field

import xxhash
from msgspec import DecodeError
from msgspec import json as msgspec_json

from services.verification.recorded import RecordedTopic
from services.verification.report import Report
from stream.records import Record
from stream.trace import Trace


@dataclass
class SlatesCheck:
    """
    Replays traces, then compares the slates as they pass by.

    recommendations.v1 is compacted: slates that were followed by newer ones may be gone. What is
    there is compared byte for byte.
    """

    report: Report
    # By recommendation id: a hash of its bytes each time that it was made. A crash makes it again.
    _replayed: defaultdict[str, set[int]] = field(default_factory=lambda: defaultdict(set))

    def trace(self, record: Record) -> None:
        """Replay one record of trace.v1."""
        self.report.count("slates replayed")
        try:
            trace = Trace.from_json(record.value or b"")
        except DecodeError as error:
            where = f"record {record.partition}:{record.offset}"
            self.report.differ("trace", where, "all of it", error, "a trace")
            return
        replayed = trace.replay()
        if replayed.recommendation_id != trace.recommendation_id:
            subject = self.report.user(trace.user_id)
            self.report.differ("slate", subject, "id", trace.recommendation_id, "other items")
        self._replayed[trace.recommendation_id].add(xxhash.xxh3_64_intdigest(replayed.to_json()))

    def slate(self, record: Record) -> None:
        """Compare one record of recommendations.v1, if it was traced."""
        if record.value is None:
            return
        slate = msgspec_json.decode(record.value)
        replayed = self._replayed.get(slate["recommendation_id"])
        if replayed is None:
            return
        self.report.count("slates compared")
        if xxhash.xxh3_64_intdigest(record.value) not in replayed:
            subject = self.report.user(slate["user_id"])
            place = f"record {record.partition}:{record.offset}"
            self.report.differ("slate", subject, place, "other bytes", "the replay")


def verify_slates(traces: RecordedTopic, slates: RecordedTopic, report: Report) -> None:
    """
    Replay every trace that there is, and compare.

    Raises:
        CommandFailed: If Kafka falls silent.
    """
    check = SlatesCheck(report)
    report.count("slates replayed", 0)
    report.count("slates compared", 0)
    for topic, take in ((traces, check.trace), (slates, check.slate)):
        for partition in topic.partitions:
            for records in topic.records(partition, 0, topic.end(partition)):
                for record in records:
                    take(record)
    if not report.counts["slates replayed"]:
        report.unchecked.append(f"{traces.name} is empty: set HEADRACE_TRACE_SHARE above 0.")
