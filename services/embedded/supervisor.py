"""
Keeps the parts of the stack running, in one event loop.

Start in order of need and otherwise at once, ready when the part's own probe says so, restart with
back-off and the reason, end dependants first. Not circus, supervisord or honcho: see
docs/decisions.md.
"""

import asyncio
import subprocess
import time
from collections.abc import Callable, Coroutine, Sequence
from pathlib import Path
from typing import Any

from services.embedded.part import Part, State, Status
from services.embedded.process import Child, Guard, ending, rotate
from services.errors import CommandFailed

PROBE_EVERY_S = 0.1  # until ready
CHECK_EVERY_S = 2.0  # after that
STEADY_AFTER_S = 30.0  # lived this long: the next failure is a new one
LONGEST_BACKOFF_S = 30.0
FIRST_BACKOFF_S = 0.5


class Supervisor:
    """Runs *parts* until `stop`; *changed* is called whenever a status has changed."""

    def __init__(
        self, parts: Sequence[Part], *, log_dir: Path, guard: Guard, changed: Callable[[], None]
    ) -> None:
        self.statuses = {part.name: Status(part.address) for part in parts}
        self._parts = {part.name: part for part in parts}
        self._log_dir = log_dir
        self._guard = guard
        self._changed = changed
        self._ready = {part.name: asyncio.Event() for part in parts}
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._ended: dict[str, str] = {}  # why the last run of a part ended
        self._began_s = time.monotonic()

    def start(self) -> None:
        """Start every part; call it once, inside the event loop."""
        for part in self._parts.values():
            rotate(self._log(part))
            self._tasks[part.name] = asyncio.create_task(self._keep(part), name=part.name)

    async def all_ready(self) -> float:
        """Wait until every part has been ready once; the seconds since the start."""
        for ready in self._ready.values():
            await ready.wait()
        return time.monotonic() - self._began_s

    async def failed(self) -> None:
        """Raise what ended a keeper task. None ever ends by itself: it would be a defect here."""
        for done in (await asyncio.wait(self._tasks.values(), return_when="FIRST_COMPLETED"))[0]:
            done.result()

    async def stop(self) -> None:
        """End the parts that need others first, and then the others."""
        dependants = [name for name, part in self._parts.items() if part.requires]
        servers = [name for name, part in self._parts.items() if not part.requires]
        for names in (dependants, servers):
            tasks = [self._tasks[name] for name in names if name in self._tasks]
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            for name in names:
                self._now(name, "stopped", self.statuses[name].reason)

    async def _keep(self, part: Part) -> None:
        for name in part.requires:
            await self._ready[name].wait()
        failures = 0
        while True:
            began_s = time.monotonic()
            reason = await self._run_once(part)
            failures = 0 if time.monotonic() - began_s > STEADY_AFTER_S else failures + 1
            pause_s = min(FIRST_BACKOFF_S * 2 ** (failures - 1), LONGEST_BACKOFF_S)
            status = self.statuses[part.name]
            status.restarts += 1
            status.pid = None
            self._ended[part.name] = reason
            self._now(part.name, "restarting", reason)
            await asyncio.sleep(pause_s)

    async def _run_once(self, part: Part) -> str:
        """Start it and stay until it has ended; returns why."""
        status = self.statuses[part.name]
        began_s = time.monotonic()
        if status.starts_after_s is None:
            status.starts_after_s = round(began_s - self._began_s, 2)
        self._now(part.name, "starting", self._ended.get(part.name))
        try:
            await asyncio.to_thread(part.prepare)
            child = await Child.start(part.command, part.environment, self._log(part), self._guard)
        except (OSError, subprocess.SubprocessError, CommandFailed) as error:
            return f"cannot be started: {error}"
        beside = asyncio.create_task(part.beside())
        try:
            status.pid = child.pid
            self._changed()
            return await self._watch(part, child, began_s)
        finally:
            beside.cancel()
            await child.end(part.stop_within_s)

    async def _watch(self, part: Part, child: Child, began_s: float) -> str:
        status = self.statuses[part.name]
        exited = asyncio.create_task(child.wait())
        was_ready = False
        working_s = time.monotonic()
        while True:
            problem = await _unless(exited, part.probe())
            if exited.done():
                return ending(exited.result(), self._log(part))
            if problem is None:
                working_s = time.monotonic()
                if not was_ready:
                    was_ready = True
                    status.ready_after_s = round(working_s - began_s, 2)
                self._now(part.name, "ready", self._ended.get(part.name))
                self._ready[part.name].set()
            else:
                patience_s = part.give_up_after_s if was_ready else part.ready_within_s
                if time.monotonic() - working_s > patience_s:
                    return f"did not answer for {patience_s:.0f} s: {problem}"
                if was_ready:
                    self._now(part.name, "failing", problem)
                else:
                    self._now(part.name, "starting", self._ended.get(part.name) or problem)
            await asyncio.wait({exited}, timeout=CHECK_EVERY_S if was_ready else PROBE_EVERY_S)

    def _now(self, name: str, state: State, reason: str | None) -> None:
        status = self.statuses[name]
        if (status.state, status.reason) != (state, reason):
            status.state, status.reason = state, reason
            self._changed()

    def _log(self, part: Part) -> Path:
        return self._log_dir / f"{part.name}.log"


async def _unless(exited: asyncio.Task[int], probe: Coroutine[Any, Any, str | None]) -> str | None:
    """The probe's answer, unless the process ends first."""
    asking = asyncio.create_task(probe)
    both: set[asyncio.Task[Any]] = {exited, asking}
    try:
        await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
        return asking.result() if asking.done() else None
    finally:
        asking.cancel()
