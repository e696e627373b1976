"""Vectors of items' texts for training, each computed once and kept on the disk."""

import hashlib
import sqlite3
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from services.text.weights import SHA256, checked, published

DIM = 384
AT_ONCE = 2048  # texts between two commits: what a kill can cost, some five seconds

Vectors = NDArray[np.float32]


class TextEncoder:
    """
    MiniLM with a memory.

    Vectors are kept as float16 under the hash of their text, in a file named after the weights, so
    that other weights never meet them. Processes may share the file.
    """

    def __init__(self, cache_dir: Path) -> None:
        """*cache_dir* is made at the first use."""
        self._file = cache_dir / f"minilm-{SHA256['model.safetensors'][:12]}.sqlite"

    def encode(
        self, texts: Sequence[str], *, advanced: Callable[[int], None] = lambda texts: None
    ) -> Vectors:
        """
        Vectors ``(N, 384)`` of length 1, in the order of *texts*.

        Args:
            advanced: Called with how many more texts are done, the known ones first.

        Raises:
            CommandFailed: If the weights are not installed, or not what was published.
        """
        keys = [_key(text) for text in texts]
        self._file.parent.mkdir(parents=True, exist_ok=True)
        with closing(sqlite3.connect(self._file, timeout=60)) as cache:
            cache.execute(
                "CREATE TABLE IF NOT EXISTS vectors"
                " (text BLOB PRIMARY KEY, vector BLOB NOT NULL) WITHOUT ROWID"
            )
            known = _known(cache, set(keys))
            missing = {key: text for key, text in zip(keys, texts, strict=True) if key not in known}
            advanced(sum(key in known for key in keys))
            if missing:
                known |= _compute(cache, missing, advanced)
        vectors = np.empty((len(keys), DIM), np.float32)
        for row, key in enumerate(keys):
            vectors[row] = np.frombuffer(known[key], np.float16)
        return vectors


def _compute(
    cache: sqlite3.Connection, missing: dict[bytes, str], advanced: Callable[[int], None]
) -> dict[bytes, bytes]:
    # Here, because torch takes seconds, and most runs find everything in the cache.
    from model_repo.text_encoder.minilm import MiniLM

    model = MiniLM.load(checked(published()))
    found: dict[bytes, bytes] = {}
    items = list(missing.items())
    for start in range(0, len(items), AT_ONCE):
        some = items[start : start + AT_ONCE]
        vectors = model.encode([text for _, text in some], advanced).astype(np.float16)
        rows = {key: one.tobytes() for (key, _), one in zip(some, vectors, strict=True)}
        with cache:
            cache.executemany("INSERT OR REPLACE INTO vectors VALUES (?, ?)", rows.items())
        found |= rows
    return found


def _known(cache: sqlite3.Connection, keys: set[bytes]) -> dict[bytes, bytes]:
    found: dict[bytes, bytes] = {}
    for key in keys:
        if row := cache.execute("SELECT vector FROM vectors WHERE text = ?", (key,)).fetchone():
            found[key] = row[0]
    return found


def _key(text: str) -> bytes:
    return hashlib.sha256(text.encode()).digest()
