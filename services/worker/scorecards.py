"""What this worker has seen of each version of the model: for the guard, and to be reported."""

from collections import Counter, defaultdict, deque
from collections.abc import Iterator
from dataclasses import dataclass, field

from services.telemetry import VersionMetrics

RECENT = 200  # requests, or users compared, that percentiles and means are taken of
TRIALS = 50  # the newest requests of a canary, of which few may fail


@dataclass
class Scorecard:
    """Of one version, since the worker has started."""

    slates: int = 0
    requests: int = 0
    failures: Counter[str] = field(default_factory=Counter)  # by reason
    seconds: deque[float] = field(default_factory=lambda: deque(maxlen=RECENT))  # of answers
    fell_back: deque[bool] = field(default_factory=lambda: deque(maxlen=TRIALS))
    compared: int = 0  # users, as a shadow
    overlaps: deque[float] = field(default_factory=lambda: deque(maxlen=RECENT))
    correlations: deque[float] = field(default_factory=lambda: deque(maxlen=RECENT))
    dropped: int = 0  # micro-batches that were not compared


class Scorecards:
    """`stream.pipeline.VersionObserver`, and what a shadow is found to be like."""

    def __init__(self, metrics: VersionMetrics) -> None:
        self._metrics = metrics
        self._of: defaultdict[str, Scorecard] = defaultdict(Scorecard)

    def of(self, version: str) -> Scorecard:
        """The version's card, empty if it has not been asked yet."""
        return self._of[version]

    def __iter__(self) -> Iterator[tuple[str, Scorecard]]:
        return iter(sorted(self._of.items(), key=lambda one: int(one[0])))

    def forget(self, version: str) -> None:
        """Give the version a new card: it will be tried afresh."""
        self._of.pop(version, None)

    def count_slates(self, version: str, count: int) -> None:
        """Count slates that the version made."""
        self._of[version].slates += count
        self._metrics.count_slates(version, count)

    def answered(self, version: str, seconds: float) -> None:
        """Count a request that was answered in *seconds*."""
        card = self._of[version]
        card.requests += 1
        card.seconds.append(seconds)
        card.fell_back.append(False)
        self._metrics.answered(version, seconds)

    def failed(self, version: str, kind: str) -> None:
        """Count a request that was not."""
        card = self._of[version]
        card.requests += 1
        card.failures[kind] += 1
        self._metrics.failed(version, kind)

    def fell_back(self, version: str) -> None:
        """Count a failure that was the version's own: the serving one has answered."""
        self._of[version].fell_back.append(True)
        self._metrics.fell_back(version)

    def compared(self, version: str, overlaps: list[float], correlations: list[float]) -> None:
        """Take in how near a shadow's answers are, user by user."""
        card = self._of[version]
        card.compared += len(overlaps)
        card.overlaps.extend(overlaps)
        card.correlations.extend(correlations)
        self._metrics.compared(version, overlaps, correlations)

    def dropped(self, version: str) -> None:
        """Count a micro-batch that the shadow was too slow to be asked about."""
        self._of[version].dropped += 1
        self._metrics.dropped(version)
