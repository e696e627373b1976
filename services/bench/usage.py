"""What processes use, and where a worker's time goes: the difference between two moments."""

import os
import urllib.request
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import psutil
from prometheus_client.parser import text_string_to_metric_families

from services.processes import of_family, own_cpu_s, own_pss_bytes

GENERATOR = "generator"
STAGE, BATCH = "headrace_stage_seconds", "headrace_batch_events"
LAG = "headrace_consumer_lag_records"


@dataclass(frozen=True)
class Reading:
    """All that has been used up to a moment."""

    cpu_s: Mapping[str, float]  # by process, its children's included
    stage_s: Mapping[str, float]  # wall time of all workers, by stage
    batches: float
    records: float  # in those batches

    def since(self, before: "Reading") -> "Reading":
        """What was used from *before* until this one."""
        return Reading(
            {name: cpu_s - before.cpu_s[name] for name, cpu_s in self.cpu_s.items()},
            {name: s - before.stage_s.get(name, 0.0) for name, s in self.stage_s.items()},
            self.batches - before.batches,
            self.records - before.records,
        )


class Meter:
    """
    Reads what is used.

    Args:
        pids: By name; those of one's own children are not counted to oneself.
        metrics: ``host:port`` of each worker's metrics.
    """

    def __init__(self, pids: Mapping[str, int], metrics: Sequence[str] = ()) -> None:
        self._processes = {name: psutil.Process(pid) for name, pid in pids.items()}
        self._own = psutil.Process(os.getpid())
        self._metrics = metrics

    def read(self) -> Reading:
        """What has been used until now."""
        cpu_s = {name: of_family(process, _cpu_s) for name, process in self._processes.items()}
        samples = self._samples()
        return Reading(
            cpu_s | {GENERATOR: own_cpu_s(self._own)},
            {stage: value for (name, stage), value in samples.items() if name == f"{STAGE}_sum"},
            samples.get((f"{BATCH}_count", ""), 0.0),
            samples.get((f"{BATCH}_sum", ""), 0.0),
        )

    def lag(self, topic: str) -> float:
        """Records of *topic* that no worker has settled, of those that its last fetch knew of."""
        return self._samples().get((LAG, topic), 0.0)

    def _samples(self) -> dict[tuple[str, str], float]:
        """Those of all workers together, by name, and by stage or topic."""
        samples: dict[tuple[str, str], float] = {}
        for address in self._metrics:
            for name, value in _scrape(address):
                samples[name] = samples.get(name, 0.0) + value
        return samples

    def memory_mb(self) -> dict[str, float]:
        """Resident memory by process, pages shared with others divided among them."""
        return {
            name: of_family(process, own_pss_bytes) / 1e6
            for name, process in self._processes.items()
        }


def _cpu_s(process: psutil.Process) -> float:
    """Its own, and that of children that have ended."""
    times = process.cpu_times()
    return own_cpu_s(process) + float(times.children_user + times.children_system)


def _scrape(address: str) -> list[tuple[tuple[str, str], float]]:
    """The sums and counts of the metrics that are read, by name, and by stage or topic."""
    with urllib.request.urlopen(f"http://{address}/metrics", timeout=10) as answer:
        families = text_string_to_metric_families(answer.read().decode())
        return [
            (
                (sample.name, sample.labels.get("stage") or sample.labels.get("topic", "")),
                sample.value,
            )
            for family in families
            if family.name in (STAGE, BATCH, LAG)
            for sample in family.samples
            if not sample.name.endswith("_bucket")
        ]
