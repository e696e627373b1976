"""All keys of a Feast project in Redis: to count them, and to give their memory back."""

import struct
from collections.abc import Iterator
from typing import Any

from features.store import FeatureRows

_AT_ONCE = 1000
_GLOB = b"\\*?[]"


def drop(rows: FeatureRows[Any]) -> int:
    """
    Delete every key of the project of *rows*, a thousand at a time; returns how many there were.

    Raises:
        StoreError: If Redis does not answer; then some are left, and it may be repeated.
    """
    client = rows.client
    dropped = 0
    batch: list[bytes] = []
    for key in keys(rows):
        batch.append(key)
        if len(batch) == _AT_ONCE:
            dropped += client.unlink(*batch)
            batch.clear()
    return dropped + (client.unlink(*batch) if batch else 0)


def keys(rows: FeatureRows[Any]) -> Iterator[bytes]:
    """The Redis keys of the project of *rows*; one may come twice while others write."""
    project = rows.project.encode()
    pattern = b"*" + _escaped(project)
    for key in rows.client.scan_iter(match=pattern, count=_AT_ONCE):
        if project_of(key) == project:
            yield key


def project_of(key: bytes) -> bytes | None:
    """
    The project that a key of Feast's online store ends with; None for any other key.

    Feast puts before it the number of join keys, then of each its type, length and name, then of
    each the value's type, length and bytes (`feast.infra.key_encoding_utils`). Lengths make sure:
    the name of one project may end with that of another.
    """
    try:
        (joined,) = struct.unpack_from("<I", key)
        at = 4
        for _ in range(2 * joined):
            _, length = struct.unpack_from("<II", key, at)
            at += 8 + length
    except struct.error:
        return None
    return key[at:]


def _escaped(text: bytes) -> bytes:
    return b"".join(b"\\" + bytes([c]) if c in _GLOB else bytes([c]) for c in text)
