"""A consumer that hangs, noticed from outside: aiokafka has been seen to wait for minutes."""

import time
from collections.abc import Callable

SILENT_FOR_S = 60.0  # a rebalance after Kafka has died takes up to half of that


class ConsumerHangs(Exception):
    """The consumer asks Kafka for nothing any more. A new process will."""


class Silence:
    """
    How long the consumer has come back with nothing from Kafka, not even with no news, while
    Kafka answers others.

    Args:
        clock: Monotonic seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._since_s = clock()

    def check(self, fetched_s: float, *, kafka_answers: bool) -> None:
        """
        Args:
            fetched_s: When the consumer last came back, by the same clock.
            kafka_answers: While it answers nobody, silence means nothing.

        Raises:
            ConsumerHangs: If it has been silent for too long.
        """
        now_s = self._clock()
        self._since_s = max(self._since_s, fetched_s) if kafka_answers else now_s
        if (silent_s := now_s - self._since_s) > SILENT_FOR_S:
            raise ConsumerHangs(
                f"the Kafka consumer has fetched nothing for {silent_s:.0f} s while Kafka answers"
            )
