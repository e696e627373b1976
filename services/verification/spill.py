"""Signals sorted into files by the event that they come from, so that few are in memory at once."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from stream.signals import DELTA, Deltas

WINDOW = 1 << 16  # source offsets in a file
_HELD = 1 << 18  # deltas that wait to be written


class SpilledSignals:
    """
    Deltas in any order, to be taken out by source partition and window of source offsets.

    Args:
        directory: Empty, and ours until its owner removes it.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._waiting: list[Deltas] = []
        self._held = 0

    def add(self, deltas: Deltas) -> None:
        """Put *deltas*, ``(n,)``, where they will be looked for."""
        self._waiting.append(deltas)
        self._held += len(deltas)
        if self._held >= _HELD:
            self.flush()

    def flush(self) -> None:
        """Write what waits; to be called before anything is taken."""
        if not self._waiting:
            return
        deltas = np.concatenate(self._waiting)
        self._waiting, self._held = [], 0
        windows = deltas["source_offset"] // WINDOW
        order = np.lexsort((windows, deltas["source_partition"]))
        deltas, windows = deltas[order], windows[order]
        places = np.stack([deltas["source_partition"].astype(np.int64), windows])
        bounds = np.flatnonzero((places[:, 1:] != places[:, :-1]).any(axis=0)) + 1
        for part in np.split(deltas, bounds):
            first = part[0]
            self._write(int(first["source_partition"]), int(first["source_offset"]) // WINDOW, part)

    def take(self, partition: int, window: int) -> Deltas:
        """The deltas of a window, in the order in which they were added."""
        path = self._path(partition, window)
        if not path.exists():
            return np.empty(0, DELTA)
        return np.fromfile(path, DELTA)

    def windows(self, partition: int) -> Iterator[int]:
        """The windows of a partition that have any, ascending."""
        names = self._directory.glob(f"{partition}-*")
        return iter(sorted(int(path.name.partition("-")[2]) for path in names))

    def _write(self, partition: int, window: int, deltas: Deltas) -> None:
        with self._path(partition, window).open("ab") as file:
            deltas.tofile(file)

    def _path(self, partition: int, window: int) -> Path:
        return self._directory / f"{partition}-{window}"
