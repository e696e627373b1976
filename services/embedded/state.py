"""What a running stack leaves in its data directory: the lock, and ``stack.json`` for others."""

import contextlib
import fcntl
import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import psutil
from tenacity import Retrying, retry_if_exception_type, stop_after_delay, wait_fixed

from services.connection import STACK_FILE, running_stack
from services.embedded.part import Status
from services.embedded.security import write_private
from services.errors import CommandFailed

LOCK_FILE = "up.lock"
# A killed `up` leaves the lock to its guard, which ends everything within five seconds.
WAIT_FOR_GUARD_S = 15.0


@contextlib.contextmanager
def locked(data_dir: Path) -> Iterator[int]:
    """
    Hold the data directory; yields the lock's descriptor, for the guard to inherit.

    Raises:
        CommandFailed: If another ``headrace up`` has it, or it cannot be written to.
    """
    try:
        data_dir.mkdir(parents=True, exist_ok=True)
        lock = os.open(data_dir / LOCK_FILE, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    except OSError as error:
        raise CommandFailed(
            f"the data directory cannot be used: {error}. Give another with --data-dir."
        ) from error
    try:
        _take(lock, data_dir)
        yield lock
    finally:
        os.close(lock)  # the guard may hold it a little longer


def _take(lock: int, data_dir: Path) -> None:
    def attempt() -> None:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if running := running_stack(data_dir):
                raise CommandFailed(
                    f"`headrace up` already runs on {data_dir} (pid {running['pid']}). Stop it "
                    "with `headrace down`, or give another --data-dir."
                ) from None
            raise

    patience = Retrying(
        retry=retry_if_exception_type(BlockingIOError),
        stop=stop_after_delay(WAIT_FOR_GUARD_S),
        wait=wait_fixed(0.2),
        reraise=True,
    )
    try:
        patience(attempt)
    except BlockingIOError:
        raise CommandFailed(
            f"processes of an earlier `headrace up` on {data_dir} have not ended. "
            "Run `headrace doctor`."
        ) from None


def write(data_dir: Path, settings: Mapping[str, str], statuses: Mapping[str, Status]) -> None:
    """Replace ``stack.json``: never half a file, whoever reads it."""
    stack: dict[str, Any] = {
        "pid": os.getpid(),
        "created_s": psutil.Process().create_time(),
        "settings": dict(settings),
        "parts": {name: asdict(status) for name, status in statuses.items()},
    }
    new = data_dir / f"{STACK_FILE}.new"
    write_private(new, json.dumps(stack, indent=1) + "\n")  # it may hold passwords
    new.replace(data_dir / STACK_FILE)


def remove(data_dir: Path) -> None:
    """Nothing runs any more."""
    (data_dir / STACK_FILE).unlink(missing_ok=True)
