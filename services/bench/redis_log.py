"""
Redis' append-only file, and what writing it anew costs.

Redis does that when the file has grown by so much, a few times in a million events. Within some
seconds of measuring it happens or does not, and to one way for what another has written: so it is
kept out of them, measured by itself, and charged by the bytes that each way writes.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psutil

from features.redis_clients import blocking_client
from services.errors import CommandFailed

REWRITTEN_WITHIN_S = 60.0
_PERCENTAGE, _MIN_SIZE = "auto-aof-rewrite-percentage", "auto-aof-rewrite-min-size"


class RedisLog:
    """
    The append-only file of the Redis at *address*, ``host:port``.

    Args:
        pid: Of the server, which must be on this machine.
    """

    def __init__(self, address: str, pid: int) -> None:
        host, _, port = address.rpartition(":")
        self._redis: Any = blocking_client({"host": host, "port": int(port)})
        self._process = psutil.Process(pid)
        self._percentage, self._min_size = self._setting(_PERCENTAGE), self._setting(_MIN_SIZE)

    @contextmanager
    def rewritten_only_when_asked(self) -> Iterator[None]:
        """Keep Redis from writing it anew for the while."""
        self._redis.config_set(_PERCENTAGE, 0)
        try:
            yield
        finally:
            self._redis.config_set(_PERCENTAGE, self._percentage)

    def size(self) -> int:
        """Bytes."""
        return int(self._redis.info("persistence")["aof_current_size"])

    def rewritings(self) -> int:
        """How often it has been written anew."""
        return int(self._redis.info("persistence")["aof_rewrites"])

    def growth(self) -> int:
        """By how many bytes it grows, once written anew, until Redis as shipped does it again."""
        base = int(self._redis.info("persistence")["aof_base_size"])
        threshold = max(base * (1 + self._percentage / 100), self._min_size)
        return int(threshold) - base

    def rewrite(self) -> float:
        """
        Write it anew, and wait.

        Returns:
            The CPU seconds that it took.

        Raises:
            CommandFailed: If Redis has not done so in `REWRITTEN_WITHIN_S`.
        """
        self._wait()
        before_s = sum(self._process.cpu_times()[:4])  # its child's, which does the work, included
        self._redis.bgrewriteaof()
        self._wait()
        return sum(self._process.cpu_times()[:4]) - before_s

    def _wait(self) -> None:
        """Until it is not being written anew."""
        deadline_s = time.monotonic() + REWRITTEN_WITHIN_S
        while self._redis.info("persistence")["aof_rewrite_in_progress"]:
            if time.monotonic() > deadline_s:
                raise CommandFailed(
                    f"Redis has not rewritten its log in {REWRITTEN_WITHIN_S:.0f} s."
                )
            time.sleep(0.1)

    def _setting(self, name: str) -> int:
        return int(self._redis.config_get(name)[name])
