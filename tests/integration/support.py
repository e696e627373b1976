"""What integration tests share: the servers' addresses, our own processes, and patience."""

import asyncio
import contextlib
import inspect
import os
import signal
import socket
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from confluent_kafka.admin import AdminClient

from services.connection import running_stack
from services.embedded.supervisor import Supervisor
from services.kafka.connection import KafkaConnection
from services.kafka.topics_setup import ensure_topics
from services.models.serving import Serving
from stream.topics import TOPICS, with_prefix

HEADRACE = Path(sys.executable).with_name("headrace")
Supervise = Callable[..., contextlib.AbstractAsyncContextManager[Supervisor]]


@dataclass(frozen=True)
class Servers:
    """The servers of a test run."""

    kafka: str
    redis: str
    triton: str
    models_dir: Path  # the running Triton's model repository
    up_pid: int | None = None  # of the `headrace up` that runs them; None: they are somebody's own

    def part(self, name: str) -> dict[str, Any]:
        """What `headrace status --json` says of a server now: its pid, state, restarts, reason."""
        stack = running_stack(self.models_dir.parent)
        assert stack is not None, "these servers are not run by `headrace up`"
        return dict(stack["parts"][name])


@dataclass
class Running:
    """One of our own processes."""

    popen: "subprocess.Popen[bytes]"
    log: Path
    ready_file: Path
    environment: Mapping[str, str] = field(repr=False)

    @property
    def pid(self) -> int:
        return self.popen.pid

    @property
    def output(self) -> str:
        """What it has written so far, standard error included."""
        return self.log.read_text(errors="replace")

    def wait_ready(self, timeout_s: float = 60.0) -> "Running":
        """Wait until it touches its HEADRACE_READY_FILE."""
        deadline = time.monotonic() + timeout_s
        while not self.ready_file.exists():
            assert self.popen.poll() is None, f"it ended ({self.popen.returncode}):\n{self.output}"
            assert time.monotonic() < deadline, f"not ready after {timeout_s} s:\n{self.output}"
            time.sleep(0.05)
        return self

    def terminate(self, timeout_s: float = 30.0) -> int:
        """SIGTERM, and the exit code; fails if it does not end in time."""
        if self.popen.poll() is None:
            self.popen.terminate()
        return self.popen.wait(timeout_s)

    def interrupt(self, timeout_s: float = 30.0) -> int:
        """SIGINT, as Ctrl-C sends it, and the exit code."""
        self.popen.send_signal(signal.SIGINT)
        return self.popen.wait(timeout_s)

    def kill(self) -> None:
        """SIGKILL: it gets no chance to do anything."""
        self.popen.kill()
        self.popen.wait()


class Processes:
    """Starts ``headrace …`` as child processes, and ends those that a test leaves behind."""

    def __init__(
        self,
        directory: Path,
        environment: Mapping[str, str],
        program: Sequence[str | Path] = (HEADRACE,),
    ) -> None:
        self._directory = directory
        self._environment = environment
        self._program = program
        self._started: list[Running] = []

    def __call__(self, *arguments: str, **settings: object) -> Running:
        """
        Start ``headrace *arguments``; *settings* become ``HEADRACE_<NAME>``.

        >>> worker = process("worker", worker_instance_id="w1").wait_ready()
        """
        number = len(self._started)
        log = self._directory / f"{number}-{arguments[0]}.log"
        ready_file = self._directory / f"{number}-{arguments[0]}.ready"
        own = {f"HEADRACE_{name.upper()}": str(value) for name, value in settings.items()}
        environment = {
            **os.environ,
            **self._environment,
            "HEADRACE_READY_FILE": str(ready_file),
            **own,
        }
        with log.open("wb") as output:
            popen = subprocess.Popen(
                [*self._program, *arguments],
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                cwd=self._directory,
                start_new_session=True,
            )
        running = Running(popen, log, ready_file, environment)
        self._started.append(running)
        return running

    def end(self) -> None:
        for running in self._started:
            if running.popen.poll() is None:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(running.pid, signal.SIGKILL)
                running.popen.wait()


def free_port() -> int:
    """A port that nobody listens on at this moment."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def serving_of(stack: Servers, prefix: str) -> Serving:
    """Where versions are deployed to, for who names topics with *prefix*."""
    return Serving(
        repository=stack.models_dir / "ranker",
        triton_address=stack.triton,
        kafka=KafkaConnection(stack.kafka),
        prefix=prefix,
    )


@contextlib.contextmanager
def fresh_environment(stack: Servers, data_dir: Path) -> Iterator[dict[str, str]]:
    """
    ``HEADRACE_*`` under a prefix of its own, on the stack's servers, with the topics created.

    The data directory is its own too. Its ``models`` is the repository of the running Triton,
    which all tests share: what a test deploys, it must undo or leave harmless.
    """
    prefix = f"t{uuid.uuid4().hex[:10]}-"
    data_dir.mkdir()
    (data_dir / "models").symlink_to(stack.models_dir, target_is_directory=True)
    ensure_topics(KafkaConnection(stack.kafka), prefix=prefix)
    yield {
        "HEADRACE_KAFKA_SERVERS": stack.kafka,
        "HEADRACE_REDIS_ADDRESS": stack.redis,
        "HEADRACE_TRITON_ADDRESS": stack.triton,
        "HEADRACE_PREFIX": prefix,
        "HEADRACE_DATA_DIR": str(data_dir),
        "HEADRACE_LOG_FORMAT": "json",
    }
    # Thousands of partitions would slow the broker down for the tests that follow.
    admin = AdminClient({"bootstrap.servers": stack.kafka, "log_level": 0})
    for deleted in admin.delete_topics([with_prefix(prefix, name) for name in TOPICS]).values():
        deleted.exception()


async def eventually(
    condition: Callable[[], Any], *, timeout_s: float = 30.0, every_s: float = 0.05
) -> Any:
    """
    Poll *condition* (plain or async) until it is truthy, and return what it gave.

    An AssertionError that it raises counts as "not yet" and is what is shown at the deadline.
    """
    deadline = time.monotonic() + timeout_s
    failure: AssertionError | None = None
    while True:
        try:
            found = condition()
            if inspect.isawaitable(found):
                found = await found
            if found:
                return found
            failure = None
        except AssertionError as error:
            failure = error
        if time.monotonic() > deadline:
            raise failure or AssertionError(f"not within {timeout_s} s; last: {found!r}")
        await asyncio.sleep(every_s)
