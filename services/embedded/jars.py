"""Apache Kafka's jars: fetched by coordinate through jgo, kept only with the locked checksum."""

import hashlib
import shutil
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path

from tenacity import (
    retry,
    retry_if_exception_type,
    stop_after_attempt,
    wait_exponential_jitter,
)

from services.errors import CommandFailed

# slf4j-simple, because log4j-slf4j-impl makes jgo resolve kafka-clients 3.8, and the broker dies.
ENDPOINT = "org.apache.kafka:kafka_2.13:4.1.2+org.slf4j:slf4j-simple:1.7.36"
LOCK = Path(__file__).with_name("kafka-jars.lock")
DOWNLOADS_AT_ONCE = 8
TIMEOUT_S = 60
SCRATCH = ".unfinished-"  # before the names of directories that are not whole yet


@dataclass(frozen=True)
class Jar:
    """One locked file."""

    group: str
    artifact: str
    version: str
    sha256: str

    @property
    def file_name(self) -> str:
        """Its name in the class path directory; groups may share artifact names, so both."""
        return f"{self.group}.{self.artifact}-{self.version}.jar"


def locked(lock: Path = LOCK) -> list[Jar]:
    """Every jar that the broker needs."""
    jars = []
    for line in lock.read_text().splitlines():
        if line.startswith("#") or not line.strip():
            continue
        coordinate, checksum = line.split()
        group, artifact, version = coordinate.split(":")
        jars.append(Jar(group, artifact, version, checksum.removeprefix("sha256:")))
    return jars


def wrong(jars: list[Jar], directory: Path) -> list[Jar]:
    """The jars that are missing from *directory* or are not the locked ones, byte for byte."""
    return [jar for jar in jars if sha256_of(directory / jar.file_name) != jar.sha256]


def missing(jars: list[Jar], directory: Path) -> list[Jar]:
    """The jars that are not there at all: what a start checks, as hashing 43 MB takes longer."""
    return [jar for jar in jars if not (directory / jar.file_name).is_file()]


def fetch(jars: list[Jar], directory: Path, fetched: Callable[[Jar], None]) -> None:
    """
    Download *jars* into *directory*, calling *fetched* after each.

    Each is written under another name and renamed once its checksum is right, so an interrupted
    run leaves nothing that a later one would trust.

    Raises:
        CommandFailed: If one cannot be had, or is not the file that was locked.
    """
    directory.mkdir(parents=True, exist_ok=True)
    with (
        tempfile.TemporaryDirectory(dir=directory.parent, prefix=SCRATCH) as scratch,
        ThreadPoolExecutor(DOWNLOADS_AT_ONCE) as pool,
    ):
        waiting = {pool.submit(_download, jar, Path(scratch)): jar for jar in jars}
        try:
            for done in as_completed(waiting):
                jar = waiting[done]
                _keep(jar, done.result(), directory)
                fetched(jar)
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


def _download(jar: Jar, scratch: Path) -> Path:
    try:
        return _attempt(jar, scratch)
    except (RuntimeError, OSError) as error:  # requests' errors are OSErrors
        raise CommandFailed(
            f"cannot download {jar.group}:{jar.artifact}:{jar.version} ({_innermost(error)}). "
            "Check the network (behind a proxy that signs TLS itself, set REQUESTS_CA_BUNDLE), "
            "then run `headrace setup` again: it goes on from here."
        ) from error


@retry(
    stop=stop_after_attempt(3),
    wait=wait_exponential_jitter(initial=1, max=5),
    retry=retry_if_exception_type(OSError),
    reraise=True,
)
def _attempt(jar: Jar, scratch: Path) -> Path:
    from jgo.maven import MavenContext

    # Each attempt in a directory of its own: jgo refuses to go on where half a file lies.
    own = Path(tempfile.mkdtemp(dir=scratch))
    context = MavenContext(repo_cache=own, timeout=TIMEOUT_S)
    component = context.project(jar.group, jar.artifact).at_version(jar.version)
    return component.artifact().resolve()


def _keep(jar: Jar, path: Path, directory: Path) -> None:
    actual = sha256_of(path)
    if actual != jar.sha256:
        raise CommandFailed(
            f"{jar.file_name} has SHA-256 {actual}, but {jar.sha256} is locked: it was damaged or "
            "replaced on the way. Run `headrace setup` again, and if it stays so, do not go on."
        )
    shutil.move(path, directory / jar.file_name)  # same file system: a rename


def _innermost(error: BaseException) -> str:
    while error.__cause__ or error.__context__:
        error = error.__cause__ or error.__context__ or error
    return f"{type(error).__name__}: {str(error)[:160]}"


def sha256_of(path: Path) -> str:
    """The file's SHA-256 in hex, or an empty string if there is none."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except FileNotFoundError:
        return ""


def resolve_afresh() -> Iterator[str]:
    """The lines of a new lock file: `ENDPOINT` resolved now. For whoever raises the version."""
    import jgo

    with tempfile.TemporaryDirectory() as scratch:
        environment = jgo.build(ENDPOINT, cache_dir=Path(scratch))
        lock = environment.lockfile
        assert lock is not None  # noqa: S101 - jgo always writes one
        for jar in lock.dependencies:
            yield f"{jar.groupId}:{jar.artifactId}:{jar.version} sha256:{jar.sha256}"


if __name__ == "__main__":
    comments = [line for line in LOCK.read_text().splitlines() if line.startswith("#")]
    LOCK.write_text("\n".join([*comments, *sorted(resolve_afresh())]) + "\n")
