"""What the benchmark is asked to measure, and what it has measured."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from services.bench.machine import Machine
from services.settings import WorkerSettings

PIPELINE, BARE_LOOP = "pipeline", "bare loop"
FAST = 1000.0  # events/s at which Redis writes its log anew every minute or two
WINDOW = 2048  # unanswered events at saturation, of each worker: more than its two micro-batches
SHIPPED_BATCH: int = WorkerSettings.model_fields["batch_size"].default


@dataclass(frozen=True)
class Asked:
    """What is measured."""

    users: int = 20_000
    items: int = 12_000
    history: int = 50
    dim: int = 64
    device: str = "cpu"  # of the model: ``cpu`` or ``gpu``
    workers: int = 1
    batch: int = SHIPPED_BATCH  # events in a micro-batch, at most
    rates: Sequence[float] = (50, 100, 500, 1000)
    seconds: float = 8.0  # of each figure but those at a rate
    exponents: Sequence[float] = (0.0, 1.1)  # of Zipf's law over users; 0 is uniform
    ga360: Path | None = None
    soak_minutes: float = 0.0
    rounds: int = 5  # of saturation, the pipeline and the bare loop in turns; the middle one counts
    brief: bool = False  # Kafka is made for a short life: it starts sooner, and is slower

    def seconds_at(self, rate: float) -> float:
        """
        How long *rate*, events/s, is offered.

        Longer than all else is measured, as one short stall is the p99 of a few seconds; at a fast
        rate for a whole cycle of Redis' log, lest its rewriting be in a figure or not by chance.
        """
        return (12 if rate >= FAST else 4) * self.seconds

    @property
    def window(self) -> int:
        """Unanswered events at saturation."""
        return WINDOW * self.workers


QUICK = Asked(
    users=200,
    items=300,
    history=10,
    dim=16,
    rates=(50.0,),
    seconds=1.0,
    exponents=(0.0,),
    rounds=1,
    brief=True,
)


@dataclass(frozen=True)
class Figure:
    """One way under one load. CPU time and stages are per answered event."""

    way: str
    traffic: str
    rate: float | None  # offered; None: as much as it takes
    events_per_s: float
    slates_per_s: float
    p50_ms: float
    p90_ms: float
    p99_ms: float
    worst_ms: float
    unanswered: int
    batch: float  # events in a micro-batch
    cpu_us: Mapping[str, float]  # by process
    stage_us: Mapping[str, float]  # wall time in the worker
    memory_mb: Mapping[str, float]
    log_rewritings: int | None = None  # of Redis', meanwhile; counted at a rate only
    statistics_s: float | None = None  # after the last slate, until items' statistics were complete

    @property
    def total_cpu_us(self) -> float:
        """CPU time of all processes for one event, the generator's included."""
        return sum(self.cpu_us.values())


@dataclass(frozen=True)
class Moment:
    """Five seconds of a soak, and the memory of each process at their end."""

    seconds: float  # since it began
    events_per_s: float  # answered
    p99_ms: float
    memory_mb: Mapping[str, float]


@dataclass
class Report:
    """Everything that one run has measured."""

    machine: Machine
    asked: Asked
    figures: list[Figure] = field(default_factory=list)
    soak: list[Moment] = field(default_factory=list)
    soak_rate: float = 0.0  # offered, events/s
    bytes_each: dict[str, float] = field(default_factory=dict)  # of what is kept
