"""The stack that is broken: `headrace up` with its own data, and hands on its processes."""

import contextlib
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Self, TypeVar

import psutil
from redis import Redis
from redis.exceptions import ResponseError

from services.connection import running_stack
from tests.integration.support import HEADRACE

READY_WITHIN_S = 180
STOP_WITHIN_S = 60
POLL_S = 0.02
T = TypeVar("T")


def until(condition: Callable[[], T | None], what: str, timeout_s: float = 60.0) -> T:
    """What *condition* gives once it is truthy; TimeoutError naming *what* if it never is."""
    deadline_s = time.monotonic() + timeout_s
    while not (found := condition()):
        if time.monotonic() > deadline_s:
            raise TimeoutError(f"{what}: not within {timeout_s:.0f} s")
        time.sleep(POLL_S)
    return found


class ChaosStack:
    """
    Kafka, Redis, Triton and workers under the supervisor that a person would use.

    Args:
        data_dir: Everything lies there, and every process of the stack is known by its name.
        workers: Kept running by the supervisor, as static members of the group.
        settings: ``HEADRACE_*`` of the workers.
    """

    def __init__(self, data_dir: Path, workers: int, **settings: object) -> None:
        self.data_dir = data_dir
        self.workers = [f"worker-{number}" for number in range(1, workers + 1)]
        self._settings = {f"HEADRACE_{name.upper()}": str(v) for name, v in settings.items()}
        self._joined: dict[str, subprocess.Popen[bytes]] = {}  # dynamic members, not supervised

    def __enter__(self) -> Self:
        self.data_dir.mkdir(parents=True, exist_ok=True)
        where = ("--data-dir", str(self.data_dir))
        count = str(len(self.workers))
        with (self.data_dir / "up.log").open("ab") as log:
            self._up = subprocess.Popen(
                [HEADRACE, "up", "--no-archiver", "--workers", count, *where],
                env=self._base_environment(),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        try:
            until(self._all_ready, f"the stack ({self.data_dir / 'up.log'})", READY_WITHIN_S)
        except BaseException:
            self._stop()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._stop()

    @property
    def environment(self) -> dict[str, str]:
        """``HEADRACE_*`` that lead a process to this stack."""
        return {f"HEADRACE_{name.upper()}": v for name, v in self._state()["settings"].items()}

    def run(self, *arguments: str, timeout_s: float = 300.0) -> "subprocess.CompletedProcess[str]":
        """``headrace *arguments`` on this stack."""
        return subprocess.run(
            [HEADRACE, *arguments],
            env={**self._base_environment(), **self.environment},
            capture_output=True,
            text=True,
            timeout=timeout_s,
            check=False,
        )

    def parts(self) -> dict[str, dict[str, Any]]:
        """What `headrace status --json` says of each part."""
        return dict(self._state()["parts"])

    def pid(self, name: str) -> int:
        """Of a part, as soon as it has one: it may be between two lives."""
        return until(lambda: self.living_pid(name), f"a process of {name}")

    def living_pid(self, name: str) -> int | None:
        """Of a part; None while it has no process."""
        pid = self.parts()[name]["pid"]
        return pid if pid is not None and _alive(pid) else None

    def stubs(self) -> list[psutil.Process]:
        """The processes in which Triton's models run."""
        with contextlib.suppress(psutil.NoSuchProcess):
            children = psutil.Process(self.pid("triton")).children(recursive=True)
            return [child for child in children if child.name().startswith("triton_python")]
        return []

    def kill(self, name: str) -> None:
        """SIGKILL to a part, if it has a process at this moment."""
        if pid := self.living_pid(name):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def terminate(self, name: str) -> None:
        """SIGTERM to a part; the supervisor starts it again. Returns when it has ended."""
        with contextlib.suppress(psutil.NoSuchProcess, psutil.TimeoutExpired):
            process = psutil.Process(self.pid(name))
            process.terminate()
            process.wait(30)

    @contextlib.contextmanager
    def supervisor_held(self) -> Iterator[None]:
        """Nothing that ends meanwhile is started again before the end of the block."""
        with paused(self._up.pid):
            yield

    def join_worker(self) -> str:
        """Start one more worker, a dynamic member whose coming is a rebalance; its name."""
        name = f"joined-{len(self._joined) + 1}"
        ready = self.data_dir / "run" / f"{name}.ready"
        with (self.data_dir / "logs" / f"{name}.log").open("wb") as log:
            worker = subprocess.Popen(
                [HEADRACE, "worker"],
                env={
                    **self._base_environment(),
                    **self.environment,
                    "HEADRACE_READY_FILE": str(ready),
                },
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        self._joined[name] = worker
        # Ready, or dead of another fault: then nobody starts it again, as in a real crash.
        until(lambda: ready.exists() or worker.poll() is not None, f"{name} to be ready", 90)
        return name

    def part_worker(self) -> str | None:
        """SIGTERM to a worker that has joined and lives, and wait for its end; its name, if any."""
        for name, worker in self._joined.items():
            if worker.poll() is None:
                worker.terminate()
                worker.wait(STOP_WITHIN_S)
                return name
        return None

    def redis_files(self) -> Path:
        """Where Redis keeps its append-only files."""
        return self.data_dir / "redis" / "appendonlydir"

    def redis_log_bytes(self) -> int:
        """Size of the file that Redis appends to."""
        return max((one.stat().st_size for one in self.redis_files().glob("*.incr.aof")), default=0)

    def copy_redis(self) -> Path:
        """A backup of Redis as docs/operations.md has it: its log written anew, then copied."""
        self._rewrite_redis_log()
        copy = self.data_dir / "redis-older"
        while True:
            shutil.rmtree(copy, ignore_errors=True)
            before = self._manifest()
            with contextlib.suppress(FileNotFoundError, shutil.Error):
                shutil.copytree(self.redis_files(), copy)
                if before and self._manifest() == before:  # else a rewrite came in between
                    return copy
            time.sleep(POLL_S)

    def restore_redis(self, copy: Path) -> None:
        """Kill Redis and put *copy* in place of its files; call it with the supervisor held."""
        self.kill("redis")
        until(lambda: self.living_pid("redis") is None, "the end of Redis")
        shutil.rmtree(self.redis_files())
        copy.rename(self.redis_files())

    def left_behind(self) -> list[str]:
        """Processes of this stack that run; call it after its end."""
        return [
            f"{process.name()} ({process.pid})"
            for process in psutil.process_iter()
            if process.pid != os.getpid() and _mentions(process, str(self.data_dir))
        ]

    def _rewrite_redis_log(self) -> None:
        host, _, port = self.environment["HEADRACE_REDIS_ADDRESS"].partition(":")
        with Redis(host, int(port)) as redis:
            with contextlib.suppress(ResponseError):  # it has just begun to do so by itself
                redis.bgrewriteaof()
            until(
                lambda: not redis.info("persistence")["aof_rewrite_in_progress"],
                "Redis' log to be written anew",
            )

    def _manifest(self) -> bytes:
        found = list(self.redis_files().glob("*.manifest"))
        return found[0].read_bytes() if found else b""

    def _base_environment(self) -> dict[str, str]:
        # Of ours only where things are installed: no address may lead elsewhere.
        ours = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith("HEADRACE_") or name == "HEADRACE_CACHE_DIR"
        }
        return {**ours, **self._settings, "HEADRACE_LOG_FORMAT": "json"}

    def _state(self) -> dict[str, Any]:
        return until(lambda: running_stack(self.data_dir), "a running stack")

    def _all_ready(self) -> bool:
        if self._up.poll() is not None:
            raise RuntimeError(f"`headrace up` ended: {(self.data_dir / 'up.log').read_text()}")
        state = running_stack(self.data_dir)
        return state is not None and all(p["state"] == "ready" for p in state["parts"].values())

    def _stop(self) -> None:
        for worker in self._joined.values():
            if worker.poll() is None:
                worker.terminate()
                with contextlib.suppress(subprocess.TimeoutExpired):
                    worker.wait(STOP_WITHIN_S)
        self._up.terminate()
        try:
            self._up.wait(STOP_WITHIN_S)
        except subprocess.TimeoutExpired:
            self._up.kill()  # its guard ends all of its children
            self._up.wait()
            raise


@contextlib.contextmanager
def paused(*pids: int) -> Iterator[None]:
    """SIGSTOP to each process, and SIGCONT at the end of the block."""
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)


def _alive(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def _mentions(process: psutil.Process, text: str) -> bool:
    with contextlib.suppress(psutil.Error):
        if process.status() == psutil.STATUS_ZOMBIE:
            return False
        said = (*process.cmdline(), *process.environ().values())
        return any(text in one for one in said)
    return False
