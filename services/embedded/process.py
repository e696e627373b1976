"""Child processes that never outlive us, and the words for how one ended."""

import asyncio
import contextlib
import ctypes
import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

PR_SET_PDEATHSIG = 1
KEPT_LOGS = 3
TAIL_BYTES = 8192
_libc = ctypes.CDLL(None)


class Guard:
    """
    The small process of `services.embedded.guard`.

    The parent-death signal alone would end our children, but not theirs (Triton's stubs), and
    would be sent once, without a SIGKILL after it.
    """

    def __init__(self, lock_fd: int) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-I", "-S", str(Path(__file__).with_name("guard.py"))],
            stdin=subprocess.PIPE,
            pass_fds=[lock_fd],
            start_new_session=True,
        )

    def watch(self, group: int) -> None:
        """End process group *group* if we die."""
        self._say(f"+{group}\n")

    def forget(self, group: int) -> None:
        """*group* has ended: its number may soon be somebody else's."""
        self._say(f"-{group}\n")

    def close(self) -> None:
        """Let it end, and with it whatever it still watches."""
        assert self._process.stdin is not None  # noqa: S101 - for mypy: it is a pipe
        self._process.stdin.close()
        self._process.wait()

    def _say(self, line: str) -> None:
        assert self._process.stdin is not None  # noqa: S101 - for mypy: it is a pipe
        with contextlib.suppress(BrokenPipeError):  # killed by someone; we go on without it
            self._process.stdin.write(line.encode())
            self._process.stdin.flush()


class Child:
    """A running child, the leader of a process group of its own."""

    def __init__(self, process: asyncio.subprocess.Process, guard: Guard) -> None:
        self._process = process
        self._guard = guard
        self.pid = process.pid

    @classmethod
    async def start(
        cls, command: Sequence[str], environment: Mapping[str, str], log: Path, guard: Guard
    ) -> "Child":
        """
        Start *command*, its output appended to *log*.

        Its own process group keeps a terminal's Ctrl-C from it: the supervisor ends parts in order.
        Not its own session: Linux shares processors out among sessions first (autogroup), and an
        event waits for all of the parts.
        """
        parent = os.getpid()

        def die_with_parent() -> None:
            _libc.prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
            if os.getppid() != parent:  # it died before the line above
                os._exit(1)

        with log.open("ab") as output:
            process = await asyncio.create_subprocess_exec(
                *command,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env=dict(environment),
                process_group=0,
                preexec_fn=die_with_parent,
            )
        guard.watch(process.pid)
        return cls(process, guard)

    async def wait(self) -> int:
        """The exit code; negative is the signal that ended it."""
        return await self._process.wait()

    async def end(self, within_s: float) -> None:
        """SIGTERM, then SIGKILL when *within_s* have passed; its own children as well."""
        if self._process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                self._process.terminate()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._process.wait(), within_s)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
        await self._process.wait()
        self._guard.forget(self.pid)


def ending(code: int, log: Path) -> str:
    """How a process ended and the last thing it said, in one line."""
    how = f"killed by {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
    return f"{how}; last line: {line}" if (line := last_line(log)) else how


def last_line(log: Path) -> str:
    """The last line that *log* holds, cut to a readable length."""
    try:
        with log.open("rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - TAIL_BYTES))
            lines = file.read().decode(errors="replace").split("\n")
    except FileNotFoundError:
        return ""
    return next((line.strip()[:300] for line in reversed(lines) if line.strip()), "")


def rotate(log: Path) -> None:
    """Keep the logs of the last starts as ``<part>.log.1`` and so on."""
    log.parent.mkdir(parents=True, exist_ok=True)
    for number in range(KEPT_LOGS, 0, -1):
        older = log.with_name(f"{log.name}.{number}")
        newer = log.with_name(f"{log.name}.{number - 1}") if number > 1 else log
        if newer.exists():
            newer.replace(older)
