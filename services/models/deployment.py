"""Bringing a version into service, and back out: the new one beside the old, proved, then named."""

import asyncio
import contextlib
import fcntl
import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from services.errors import CommandFailed
from services.kafka.publishing import NotDelivered, Publisher
from services.models import control
from services.models.versions import (
    MANIFEST,
    BadVersion,
    Manifest,
    disagreement,
    read_manifest,
    verify,
)
from stream.deployments import Deployment
from stream.ranking import RankerUnavailable
from stream.topics import DEPLOYMENTS, with_prefix

CONFIG = "config.pbtxt"
LOAD_TIMEOUT_S = 90.0
PROBE_TIMEOUT_S = 10.0

Say = Callable[[str], None]


@dataclass(frozen=True)
class Serving:
    """Where models are deployed."""

    repository: Path  # of the one model: it holds config.pbtxt and the version directories
    triton_address: str
    kafka_servers: str
    prefix: str
    device: str = "cpu"

    @property
    def model(self) -> str:
        """The model's name in Triton."""
        return self.repository.name

    @property
    def config(self) -> Path:
        """What Triton loads at its start."""
        return self.repository / CONFIG


def deploy(directory: Path, serving: Serving, *, say: Say) -> str:
    """
    Serve the version in *directory*, and tell the workers.

    The one that serves now stays loaded and goes on answering, whatever happens here.

    Returns:
        The version's number.

    Raises:
        BadVersion: If it is incomplete, cannot be loaded, or answers wrongly.
        CommandFailed: If Triton or Kafka cannot be reached.
    """
    manifest = verify(directory)
    if manifest.model != serving.model:
        raise BadVersion(f"{directory} is a {manifest.model!r}, not a {serving.model!r}.")
    say(f"{directory} is complete ({manifest.vocabulary_size:,} items).")
    with _locked(serving.repository), _publisher(serving) as publisher:
        loaded = asyncio.run(_loaded(serving))
        version = _next_version(serving.repository, loaded)
        _copy(directory, serving.repository / version, manifest)
        try:
            _prove(serving, version, manifest)
        except BadVersion:
            shutil.rmtree(_writable(serving.repository / version))
            _restore(serving)
            raise
        say(f"Triton answers as version {version} was released to.")
        announce(publisher, serving, version, manifest)
    return version


def use(version: str, serving: Serving) -> None:
    """
    Go back (or forward) to a version that is in the repository already.

    Raises:
        BadVersion: If there is none, or it no longer answers as it was released to.
        CommandFailed: If Triton or Kafka cannot be reached.
    """
    with _locked(serving.repository), _publisher(serving) as publisher:
        if not version.isdecimal():
            raise BadVersion(
                f"{version!r} is no version: they are numbers; see headrace model list."
            )
        manifest = verify(serving.repository / version)
        asyncio.run(_loaded(serving))
        try:
            _prove(serving, version, manifest)
        except BadVersion:
            _restore(serving)
            raise
        announce(publisher, serving, version, manifest)


def announce(publisher: Publisher, serving: Serving, version: str, manifest: Manifest) -> None:
    """Tell every worker that *version* serves. Raises `CommandFailed`, and how to go on."""
    deployment = Deployment(
        model=serving.model,
        version=version,
        deployed_at=datetime.now(UTC),
        popular=manifest.popular[:200],
    )
    topic = with_prefix(serving.prefix, DEPLOYMENTS)
    try:
        publisher.send(topic, serving.model.encode(), deployment.model_dump_json().encode())
        publisher.flush()
    except NotDelivered as error:
        raise CommandFailed(
            f"{error.message} Version {version} is loaded, but the workers have not been told. "
            f"Once Kafka is back: headrace model use {version}"
        ) from error


def versions(serving: Serving) -> list[tuple[str, Manifest]]:
    """Every version in the repository, oldest first."""
    found = (path for path in serving.repository.glob("*") if (path / MANIFEST).is_file())
    numbered = sorted((path.name for path in found if path.name.isdecimal()), key=int)
    return [(name, read_manifest(serving.repository / name)) for name in numbered]


def configured(serving: Serving) -> tuple[str, ...]:
    """The versions that Triton is to have loaded, the serving one last."""
    if not serving.config.exists():
        return ()
    return control.configured_versions(serving.config.read_text())


def _prove(serving: Serving, version: str, manifest: Manifest) -> None:
    """Load *version* beside the one that serves, and make it the configured one if it is right."""
    before = configured(serving)
    wanted = [one for one in before[-1:] if one != version] + [version]
    pbtxt = (serving.repository / version / CONFIG).read_text()
    try:
        as_json, as_text = control.configure(pbtxt, wanted, device=serving.device)
        asyncio.run(_load_and_ask(serving, version, manifest, as_json))
    except ValueError as error:
        raise _refused(version, str(error), before) from error
    except RankerUnavailable as error:
        raise _refused(version, str(error), before) from error
    _write(serving.config, as_text)


async def _load_and_ask(serving: Serving, version: str, manifest: Manifest, config: str) -> None:
    address, model = serving.triton_address, serving.model
    await control.load(address, model, config=config, timeout_s=LOAD_TIMEOUT_S)
    # Triton passes over a directory that it does not see, and reports success.
    if version not in await control.ready_versions(address, model):
        raise RankerUnavailable(
            f"refused: Triton has not loaded it. Is {serving.repository} in its model repository?"
        )
    answer = await control.answers(
        address, model, version, manifest.golden_inputs, timeout_s=PROBE_TIMEOUT_S
    )
    if problem := disagreement(manifest, answer):
        raise RankerUnavailable(f"malformed: {problem}")


def _refused(version: str, reason: str, before: tuple[str, ...]) -> BadVersion:
    keeps = f"Version {before[-1]} keeps serving." if before else "No version serves."
    first_line = reason.splitlines()[0]
    return BadVersion(f"version {version} is refused: {first_line} {keeps}")


def _restore(serving: Serving) -> None:
    """Have Triton forget a version that was refused."""
    # Should Triton have gone meanwhile, it reads the configuration at its next start.
    with contextlib.suppress(RankerUnavailable):
        asyncio.run(_load_configured(serving))


async def _load_configured(serving: Serving) -> None:
    kept = configured(serving)
    ready = await control.ready_versions(serving.triton_address, serving.model)
    if set(ready) == set(kept):
        return  # the load itself failed, and that changes nothing
    if not kept:
        await control.unload(serving.triton_address, serving.model, timeout_s=PROBE_TIMEOUT_S)
        return
    as_json, _ = control.configure(serving.config.read_text(), kept, device=serving.device)
    await control.load(
        serving.triton_address, serving.model, config=as_json, timeout_s=LOAD_TIMEOUT_S
    )


async def _loaded(serving: Serving) -> tuple[str, ...]:
    try:
        return await control.ready_versions(serving.triton_address, serving.model)
    except RankerUnavailable as error:
        raise CommandFailed(
            f"no Triton at {serving.triton_address} ({error}). "
            "Start `headrace up`, or set HEADRACE_TRITON_ADDRESS."
        ) from error


def _next_version(repository: Path, loaded: tuple[str, ...]) -> str:
    present = [path.name for path in repository.iterdir() if path.name.isdecimal()]
    return str(max((int(name) for name in (*present, *loaded)), default=0) + 1)


def _copy(source: Path, target: Path, manifest: Manifest) -> None:
    """Copy what the manifest lists: complete or not at all, and read-only."""
    unfinished = target.with_name(f".{target.name}.unfinished")
    if unfinished.exists():
        shutil.rmtree(_writable(unfinished))
    unfinished.mkdir(parents=True)
    for name in (*manifest.sha256, MANIFEST):
        shutil.copyfile(source / name, unfinished / name)
        with (unfinished / name).open("rb") as file:
            os.fsync(file.fileno())
        (unfinished / name).chmod(0o444)
    unfinished.rename(target)
    target.chmod(0o555)


def _writable(directory: Path) -> Path:
    directory.chmod(0o755)
    return directory


def _write(path: Path, text: str) -> None:
    unfinished = path.with_name(f".{path.name}.unfinished")
    with unfinished.open("w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    unfinished.rename(path)


@contextlib.contextmanager
def _publisher(serving: Serving) -> Iterator[Publisher]:
    """A publisher whose topic is known to be there, before anything is changed."""
    with Publisher(serving.kafka_servers) as publisher:
        publisher.cluster_id(with_prefix(serving.prefix, DEPLOYMENTS))
        yield publisher


@contextlib.contextmanager
def _locked(repository: Path) -> Iterator[None]:
    """One deployment at a time. Raises `CommandFailed` if another is under way."""
    repository.mkdir(parents=True, exist_ok=True)
    with (repository / ".lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise CommandFailed(f"another deployment into {repository} is under way.") from error
        yield
