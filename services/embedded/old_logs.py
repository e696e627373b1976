"""Gives the disk of Redis' old logs back little by little: see docs/decisions.md."""

import asyncio
import os
from contextlib import suppress
from io import FileIO
from pathlib import Path

LOOK_EVERY_S = 1.0  # a log is written for many seconds before Redis deletes it
STEP_BYTES = 16 << 20
PAUSE_S = 0.02  # for the syncs that have waited


async def free_little_by_little(directory: Path) -> None:
    """
    Free the logs that Redis deletes in *directory*, until it is cancelled.

    Once its log is written anew Redis deletes the old one, half a gigabyte. The disk would free
    all of it in one go, and what Redis writes meanwhile, each time with a sync, would wait. What
    is still open is freed when the last who holds it lets go, so every log is held here.
    """
    held: dict[str, FileIO] = {}
    try:
        while True:
            _hold(directory, held)
            for name in [name for name, log in held.items() if _is_deleted(log)]:
                with held.pop(name) as log:
                    await _shorten(log)
            await asyncio.sleep(LOOK_EVERY_S)
    finally:
        for log in held.values():
            log.close()


def _hold(directory: Path, held: dict[str, FileIO]) -> None:
    for path in directory.glob("*.aof"):
        if path.name not in held:
            with suppress(FileNotFoundError):  # deleted just now
                held[path.name] = FileIO(path, "r+")


def _is_deleted(log: FileIO) -> bool:
    return os.fstat(log.fileno()).st_nlink == 0


async def _shorten(log: FileIO) -> None:
    for size in range(log.seek(0, os.SEEK_END) - STEP_BYTES, 0, -STEP_BYTES):
        log.truncate(size)
        await asyncio.sleep(PAUSE_S)
