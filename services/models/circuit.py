"""A circuit breaker before each version: nobody waits for a Triton that hangs or is gone."""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import TypeVar

from pybreaker import STATE_CLOSED, CircuitBreaker, CircuitBreakerError

from stream.ranking import RankerUnavailable

PROBE_PAUSE_S = 0.1
UNREACHED = ("late", "down")  # a version that refuses has answered, and costs nobody any time

T = TypeVar("T")


class Circuit:
    """
    Lets calls through while they are answered.

    After one that is late, or finds nobody, calls fail at once, until a probe in the background has
    had an answer. The probe alone is the half-open circuit's trial: were it a micro-batch, its
    users would wait for the whole deadline.
    """

    def __init__(
        self, probe: Callable[[], Awaitable[object]], opened: Callable[[bool], None]
    ) -> None:
        """*probe* raises `RankerUnavailable` as calls do; *opened* hears of each change."""
        self._probe = probe
        self._opened = opened
        self._breaker = CircuitBreaker(
            fail_max=1,
            reset_timeout=PROBE_PAUSE_S,
            exclude=[lambda error: not _is_unreached(error)],
            throw_new_error_on_trip=False,
        )
        self._probing: asyncio.Task[None] | None = None
        self._kind = ""  # of the failure that opened it

    async def call(self, ask: Callable[[], Awaitable[T]]) -> T:
        """What *ask* gives. Raises `RankerUnavailable`, at once while the circuit is open."""
        if self._breaker.current_state != STATE_CLOSED:
            raise RankerUnavailable(f"{self._kind}: not asked before a probe has had an answer")
        try:
            with self._breaker.calling():
                return await ask()
        except RankerUnavailable as error:
            if _is_unreached(error) and (self._probing is None or self._probing.done()):
                self._kind = error.kind
                self._probing = asyncio.create_task(self._probe_until_answered())
            raise

    def close(self) -> None:
        """Probe no more."""
        if self._probing is not None:
            self._probing.cancel()

    async def _probe_until_answered(self) -> None:
        self._opened(True)
        while self._breaker.current_state != STATE_CLOSED:
            await asyncio.sleep(PROBE_PAUSE_S)
            with suppress(RankerUnavailable, CircuitBreakerError), self._breaker.calling():
                await self._probe()
        self._opened(False)


def _is_unreached(error: BaseException) -> bool:
    return isinstance(error, RankerUnavailable) and error.kind in UNREACHED
