"""How far a replay got: the rows of a log before which everything is acknowledged, in a file."""

import json
import os
from pathlib import Path
from typing import Self

import xxhash

HEAD_BYTES = 64 * 1024


class ReplayPosition:
    """
    The first row of a log that is not known to be in Kafka, kept across runs.

    Reports come in any order, so it advances only over rows without a gap: after a crash some rows
    are published again (under the same event ids), and none is left out.
    """

    def __init__(self, path: Path | None = None, row: int = 0) -> None:
        self.row = row
        self._path = path
        self._done: set[int] = set()
        self._saved = row

    @classmethod
    def load(cls, directory: Path, log: Path, *details: str) -> Self:
        """
        The position of an earlier run of the same log with the same *details*.

        The same log: same path, size and first 64 KiB. A log that has grown since begins again;
        its events keep their ids, so nothing is counted twice.
        """
        path = directory / f"{_identity(log, details)}.json"
        try:
            return cls(path, int(json.loads(path.read_bytes())["row"]))
        except FileNotFoundError:
            return cls(path)

    def done(self, row: int) -> None:
        """Row *row* is acknowledged, or is not to be published."""
        if row != self.row:
            self._done.add(row)
            return
        self.row += 1
        while self.row in self._done:
            self._done.remove(self.row)
            self.row += 1

    def restart(self) -> None:
        """Forget earlier runs."""
        self.row = 0

    def save(self) -> None:
        """Write the position so that a crash leaves the old one or the new one."""
        if self._path is None or self.row == self._saved:
            return
        self._path.parent.mkdir(parents=True, exist_ok=True)
        temporary = self._path.with_suffix(f".{os.getpid()}.tmp")
        temporary.write_text(json.dumps({"row": self.row}))
        temporary.replace(self._path)
        self._saved = self.row


def _identity(log: Path, details: tuple[str, ...]) -> str:
    with log.open("rb") as stream:
        head = stream.read(HEAD_BYTES)
    text = "\x00".join((str(log.resolve()), str(log.stat().st_size), *details))
    return xxhash.xxh3_128_hexdigest(text.encode() + b"\x00" + head)
