"""The signals of the events folded again against what signals.v1 has of them."""

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from services.verification.report import Report
from services.verification.spill import WINDOW, SpilledSignals
from stream.marks import Mark
from stream.signals import DELTA, Deltas


@dataclass
class SignalsCheck:
    """
    Compares the signals of events, a window of source offsets at a time.

    Args:
        found: What signals.v1 has, repeats left out.
        marks: Of events.v1: signals of events that no mark has passed may or may not be there.
        report: Takes counts and differences.
    """

    found: SpilledSignals
    marks: Mapping[int, Mark]
    report: Report
    _expected: dict[int, list[Deltas]] = field(default_factory=lambda: defaultdict(list))
    _window: dict[int, int] = field(default_factory=lambda: defaultdict(int))

    def expect(self, packed: bytes) -> None:
        """Take the signals of one event; each partition's events come in order."""
        deltas = np.frombuffer(packed, DELTA)
        partition = int(deltas["source_partition"][0])
        window = int(deltas["source_offset"][0]) // WINDOW
        while self._window[partition] < window:
            self._compare(partition)
        self._expected[partition].append(deltas)

    def finish(self) -> None:
        """Compare what is left."""
        for partition, mark in self.marks.items():
            while self._window[partition] * WINDOW < mark.next_offset:
                self._compare(partition)

    def _compare(self, partition: int) -> None:
        """Compare the partition's window, and go on to the next one."""
        window, self._window[partition] = self._window[partition], self._window[partition] + 1
        expected = self._expected.pop(partition, [])
        wanted = np.concatenate(expected) if expected else np.empty(0, DELTA)
        found = self.found.take(partition, window)
        found = found[found["source_offset"] < self.marks[partition].next_offset]
        self.report.count("signals compared", len(wanted))
        compare(wanted, found, self.report)


def compare(expected: Deltas, found: Deltas, report: Report) -> None:
    """Note each (item, event) of which *found* has other deltas than *expected*, or none."""
    expected, found = _sorted(expected), _sorted(found)
    if expected.tobytes() == found.tobytes():
        return
    wanted, had = _by_source(expected), _by_source(found)
    for source in sorted(wanted.keys() | had.keys()):
        should, was = wanted.get(source), had.get(source)
        if should != was:
            item, partition, offset = source
            where = f"of record {partition}:{offset}"
            report.differ("signal", f"item key {item}", where, was or "none", should or "none")


def _sorted(deltas: Deltas) -> Deltas:
    """By event and item; the deltas of one such pair stay in their order."""
    return deltas[np.lexsort((deltas["item_key"], deltas["source_offset"]))]


def _by_source(deltas: Deltas) -> dict[tuple[int, int, int], list[tuple[int, ...]]]:
    groups: defaultdict[tuple[int, int, int], list[tuple[int, ...]]] = defaultdict(list)
    for item, partition, offset, *rest in deltas.tolist():
        groups[item, partition, offset].append(tuple(rest))
    return dict(groups)
