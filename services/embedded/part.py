"""What the supervisor needs to know of one process that it keeps running."""

import asyncio
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

State = Literal["waiting", "starting", "ready", "failing", "restarting", "stopped", "external"]
Probe = Callable[[], Coroutine[Any, Any, str | None]]


def _nothing() -> None:
    """The preparation of a part that needs none."""


async def _for_ever() -> None:
    """What goes on beside a part of which nothing is to be done."""
    await asyncio.Event().wait()


@dataclass(frozen=True)
class Part:
    """
    One process of the stack.

    `probe` is asked until the part is ready and every few seconds after that. It answers None if
    the part does its work, or says why not; an answer means the work itself (a PING answered, an
    inference made), as a process that only exists may do nothing. It bounds its own time.
    """

    name: str
    address: str
    command: Sequence[str]
    environment: Mapping[str, str]
    probe: Probe
    requires: tuple[str, ...] = ()  # parts that are ready before this one starts
    prepare: Callable[[], None] = _nothing  # before every start, in a thread
    beside: Callable[[], Coroutine[Any, Any, None]] = _for_ever  # while it runs, until cancelled
    ready_within_s: float = 180.0
    give_up_after_s: float = 60.0  # without a good answer once it was ready: killed, started again
    stop_within_s: float = 10.0


@dataclass
class Status:
    """What `headrace status` says of a part."""

    address: str
    state: State = "waiting"
    pid: int | None = None
    restarts: int = 0
    reason: str | None = None  # why it does not work now, or why it was last started again
    ready_after_s: float | None = None  # from its own start
    starts_after_s: float | None = None  # from the start of the stack
    cpu_s: float | None = None  # used so far, by it and its children; `headrace status` fills it in
    memory_mb: float | None = None  # resident, likewise
