"""What may be wrong with a machine or an installation, and what to do about it."""

import asyncio
import fcntl
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil

from services.connection import running_stack
from services.embedded import install, jars, ports, stub
from services.embedded.redis import ping
from services.embedded.state import LOCK_FILE
from services.errors import CommandFailed
from services.kafka.connection import KafkaConnection
from services.settings import WorkerSettings

GIB = 1 << 30
NEEDED_DISK_BYTES = 1 * GIB
NEEDED_MEMORY_BYTES = 2 * GIB
NEEDED_SHM_BYTES = 64 << 20
CPU_FLAGS = Path("/proc/cpuinfo")
SHARED_MEMORY = Path("/dev/shm")  # noqa: S108


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong, and the next step."""

    what: str
    next_step: str


Check = Callable[[WorkerSettings], Iterator[Finding]]


def machine(settings: WorkerSettings) -> Iterator[Finding]:
    """The embedded servers are built for one kind of machine."""
    if (sys.platform, platform.machine()) != ("linux", "x86_64"):
        yield Finding(
            f"this is {sys.platform} on {platform.machine()}; the embedded servers are for Linux "
            "on x86-64",
            "use compose.yaml, or servers elsewhere (HEADRACE_KAFKA_SERVERS and the like)",
        )
    elif " avx2 " not in CPU_FLAGS.read_text().replace("\n", " "):
        yield Finding(
            "the processor has no AVX2, which Triton and PyTorch are compiled for",
            "use another machine; in a virtual one, pass the host's processor through",
        )
    if sys.version_info[:2] != (3, 11):
        yield Finding(f"Python {platform.python_version()} is not 3.11", "run `make setup`")


def memory(settings: WorkerSettings) -> Iterator[Finding]:
    """The stack with one worker takes about 2 GiB."""
    free = psutil.virtual_memory().available
    if free < NEEDED_MEMORY_BYTES and running_stack(settings.data_dir) is None:
        yield Finding(
            f"only {free / GIB:.1f} GiB of memory are free, and the stack takes about 2",
            "end other programs, or use fewer workers (`headrace up --workers 1`)",
        )
    if SHARED_MEMORY.exists() and shutil.disk_usage(SHARED_MEMORY).free < NEEDED_SHM_BYTES:
        yield Finding(
            f"{SHARED_MEMORY} has less than 64 MiB free, and Triton talks to its models there",
            "remove what lies in it, or start the container with a larger --shm-size",
        )


def disk(settings: WorkerSettings) -> Iterator[Finding]:
    """A full disk ends Redis, which syncs every write."""
    for directory in dict.fromkeys((settings.data_dir, settings.cache_dir)):
        there = next(path for path in (directory, *directory.absolute().parents) if path.exists())
        free = shutil.disk_usage(there).free
        if free < NEEDED_DISK_BYTES:
            yield Finding(
                f"the disk of {directory} is nearly full: {free / GIB:.2f} GiB are free",
                "make room, or move it with HEADRACE_DATA_DIR or HEADRACE_CACHE_DIR",
            )
        if not os.access(there, os.W_OK):
            yield Finding(
                f"{there} cannot be written to",
                "change its owner, or set HEADRACE_DATA_DIR or HEADRACE_CACHE_DIR",
            )


def programs(settings: WorkerSettings) -> Iterator[Finding]:
    """The servers' own files, each as it was locked."""
    try:
        installation = install.locate(settings.cache_dir)
    except CommandFailed as error:
        yield Finding(error.message, "run `make setup`")
        return
    for path in (installation.java, installation.redis, installation.triton):
        if not os.access(path, os.X_OK):
            yield Finding(
                f"{path} is missing or not executable",
                "run `uv sync --reinstall` (or `make clean setup`)",
            )
    every = jars.locked()
    missing = jars.missing(every, installation.kafka_jars)
    if missing:
        yield Finding(
            f"{len(missing)} of {len(every)} Kafka jars are missing", "run `headrace setup`"
        )
    for jar in jars.wrong([jar for jar in every if jar not in missing], installation.kafka_jars):
        yield Finding(
            f"{jar.file_name} does not have the locked SHA-256",
            "run `headrace setup`: it is replaced",
        )
    yield from _triton(installation)


def _triton(installation: install.Installation) -> Iterator[Finding]:
    environment = installation.stub
    if not environment.python.exists():
        yield Finding("Triton's model environment is missing", "run `headrace setup`")
        return
    if complaint := stub.numpy_complaint(environment):
        yield Finding(complaint, f"remove {environment.directory}, then run `headrace setup`")
    search = f"{environment.libraries}:{installation.triton_libraries}"
    for program in (installation.triton, environment.backends / "python" / stub.PROGRAM):
        linked = subprocess.run(
            ["ldd", program], env={"LD_LIBRARY_PATH": search}, capture_output=True, text=True,
            check=False,
        )  # fmt: skip
        for line in linked.stdout.splitlines():
            if "not found" in line:
                yield Finding(
                    f"{program.name} needs {line.split()[0]}, which is not on this machine",
                    f"install it, or remove {environment.directory} and run `headrace setup`",
                )


def leftovers(settings: WorkerSettings) -> Iterator[Finding]:
    """An earlier ``headrace up`` that was killed."""
    lock = settings.data_dir / LOCK_FILE
    if running_stack(settings.data_dir) is not None or not lock.exists():
        return
    with lock.open("rb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            yield Finding(
                f"processes of an earlier `headrace up` still hold {settings.data_dir}",
                f"wait ten seconds; if it stays, `fuser -v {lock}` names them: end those",
            )


def taken_ports(settings: WorkerSettings) -> Iterator[Finding]:
    """Clients may know the ports of the last run."""
    if running_stack(settings.data_dir) is not None:
        return
    for name, port in ports.remembered(settings.data_dir / ports.FILE).items():
        if not ports.is_free(port):
            yield Finding(
                f"port {port}, which {name} had, is taken by {ports.holder(port)}",
                f"end that process, or give another port (`headrace up --help`); {name} takes a "
                "free one otherwise",
            )


def parts(settings: WorkerSettings) -> Iterator[Finding]:
    """What the running stack says of itself."""
    stack = running_stack(settings.data_dir)
    for name, part in (stack or {"parts": {}})["parts"].items():
        if part["state"] not in ("ready", "external"):
            yield Finding(
                f"{name} is {part['state']}: {part['reason'] or 'not ready yet'}",
                f"look at {settings.data_dir / 'logs' / name}.log",
            )


def servers(settings: WorkerSettings) -> Iterator[Finding]:
    """Those that were named, or that run: does each answer in its own protocol?"""
    named = settings.model_fields_set
    if "kafka_servers" in named and not _kafka_answers(settings.kafka):
        yield _unreachable("Kafka", settings.kafka_servers, "HEADRACE_KAFKA_SERVERS")
    if "redis_address" in named and asyncio.run(_ping(settings)):
        yield _unreachable("Redis", settings.redis_address, "HEADRACE_REDIS_ADDRESS")
    if "triton_address" in named and not _triton_answers(settings.triton_address):
        yield _unreachable("Triton", settings.triton_address, "HEADRACE_TRITON_ADDRESS")


def _unreachable(server: str, address: str, setting: str) -> Finding:
    return Finding(
        f"{server} at {address} does not answer",
        f"start it, or correct {setting}; unset, `headrace up` runs one",
    )


async def _ping(settings: WorkerSettings) -> str | None:
    password = settings.redis_password.get_secret_value()
    return await ping(
        settings.redis_address,
        login=(settings.redis_username, password) if password else None,
        ca_file=settings.redis_ca_file if settings.redis_tls else None,
        tls=settings.redis_tls,
    )


def _kafka_answers(kafka: KafkaConnection) -> bool:
    from confluent_kafka import KafkaException
    from confluent_kafka.admin import AdminClient

    try:
        AdminClient({**kafka.config(), "log_level": 0}).list_topics(timeout=3)
    except KafkaException:
        return False
    return True


def _triton_answers(address: str) -> bool:
    from services.models.control import is_alive

    return asyncio.run(is_alive(address, timeout_s=3))


CHECKS: dict[str, Check] = {
    "machine": machine,
    "memory": memory,
    "disk": disk,
    "programs": programs,
    "leftovers": leftovers,
    "ports": taken_ports,
    "parts": parts,
    "servers": servers,
}
