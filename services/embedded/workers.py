"""Our own processes as parts of the stack: the stream workers, the archiver and the trainer."""

import hashlib
import os
import socket
import sys
from collections.abc import Mapping, Set
from pathlib import Path

from services.embedded.part import Part
from services.embedded.ports import HOST


def worker(
    number: int, environment: Mapping[str, str], run_dir: Path, *, port: int, servers: Set[str]
) -> Part:
    """The part ``worker-<number>``; *port* is for its metrics, *servers* the embedded ones."""
    name = f"worker-{number}"
    # A static member that returns within its session timeout causes no rebalance. The name is
    # of this stack alone: two stacks on one Kafka would otherwise throw each other out.
    here = hashlib.sha256(f"{socket.gethostname()}:{run_dir}".encode()).hexdigest()[:8]
    own = {"HEADRACE_WORKER_INSTANCE_ID": f"{name}-{here}"}
    return _part(
        name,
        "worker",
        {**environment, **own},
        run_dir,
        port,
        servers & {"kafka", "redis", "redis-tls"},
    )


def archiver(
    environment: Mapping[str, str], run_dir: Path, *, port: int, servers: Set[str]
) -> Part:
    """The part ``archiver``; *port* is for its metrics, *servers* the embedded ones."""
    return _part("archiver", "archiver", environment, run_dir, port, servers & {"kafka"})


def trainer(environment: Mapping[str, str], run_dir: Path, *, port: int, servers: Set[str]) -> Part:
    """The part ``trainer``; *port* is for its metrics, *servers* the embedded ones."""
    return _part("trainer", "trainer", environment, run_dir, port, servers & {"kafka"})


def _part(
    name: str,
    command: str,
    environment: Mapping[str, str],
    run_dir: Path,
    port: int,
    requires: Set[str],
) -> Part:
    ready = run_dir / f"{name}.ready"

    def prepare() -> None:
        run_dir.mkdir(parents=True, exist_ok=True)
        ready.unlink(missing_ok=True)

    async def probe() -> str | None:
        return None if ready.exists() else "not ready yet"

    return Part(
        name=name,
        address=f"{HOST}:{port}",
        command=(str(Path(sys.executable).with_name("headrace")), command),
        environment={
            **os.environ,
            **environment,
            "HEADRACE_READY_FILE": str(ready),
            "HEADRACE_METRICS_PORT": str(port),
            "PYTHONUNBUFFERED": "1",  # the last line of the log is the reason of a crash
        },
        probe=probe,
        prepare=prepare,
        requires=tuple(sorted(requires)),
        stop_within_s=20.0,
    )
