"""One change of a model's state: under a lock, proved on Triton, announced, and then tidied up."""

import asyncio
import contextlib
import time
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path

from services.errors import CommandFailed
from services.models import gate, repository
from services.models.companions import load_companions
from services.models.config import as_text
from services.models.loading import (
    configuration,
    load_and_prove,
    load_exactly,
    require_triton,
)
from services.models.proof import Limits
from services.models.serving import Serving
from services.models.state import write_state
from services.models.versions import BadVersion, Manifest, verify
from stream import topics
from stream.deployments import Deployment
from stream.ranking import RankerUnavailable

# How a load fails: Triton cannot, or another load is under way (`BadVersion` is a `CommandFailed`).
NOT_LOADED = (RankerUnavailable, CommandFailed)
FOLLOWED_AFTER_S = 1.5  # workers follow within a second; then what they have left can go

Say = Callable[[str], None]


@contextlib.contextmanager
def changing(serving: Serving) -> Iterator["Change"]:
    """
    A change of *serving*, one at a time.

    Raises:
        CommandFailed: If another is under way, or Triton or Kafka cannot be reached.
    """
    with repository.locked(serving.repository):
        loaded = asyncio.run(require_triton(serving.triton_address, serving.model))
        yield Change(serving, serving.state(), loaded)


class Change:
    """
    What a step of a version's life works with.

    Attributes:
        state: As it was when the change began; None if nothing has ever served.
    """

    def __init__(self, serving: Serving, state: Deployment | None, loaded: Sequence[str]) -> None:
        self.state = state
        self._serving = serving
        self._loaded = loaded

    def require_state(self) -> Deployment:
        """The state; raises `CommandFailed` while nothing serves."""
        if self.state is None:
            raise CommandFailed("no version serves yet. Begin with `headrace model deploy DIR`.")
        return self.state

    def bring_in(self, source: str, limits: Limits, say: Say) -> tuple[str, Manifest]:
        """
        Pass the version *source* through the gate, and load it beside the others.

        Args:
            source: A directory, which is copied; or the number of a version that is there.

        Returns:
            Its number and manifest.

        Raises:
            BadVersion: If it is refused. It is gone again, and what served goes on serving.
        """
        if source.isdecimal():
            return source, self.load(source, limits, say)
        directory = Path(source)
        manifest = gate.check(directory, self._serving, limits, say=say)
        version = repository.next_number(self._serving.repository, self._loaded)
        repository.copy_version(directory, self._serving.repository / version, manifest)
        try:
            self._prove(version, manifest, limits, say)
        except BadVersion:
            repository.remove_version(self._serving.repository / version)
            raise
        return version, manifest

    def load(self, version: str, limits: Limits, say: Say) -> Manifest:
        """Load and prove a version that is in the repository. Raises `BadVersion`."""
        directory = self._serving.repository / version
        if not version.isdecimal() or not repository.is_whole(directory):
            raise BadVersion(f"there is no version {version}; see `headrace model list`.")
        manifest = verify(directory)
        self._prove(version, manifest, limits, say)
        return manifest

    def announce(self, state: Deployment) -> None:
        """Tell the workers, and then unload what has no part in *state* any more."""
        serving = self._serving
        self._write_config(self._present(state.versions))
        write_state(serving.kafka, serving.topic(topics.DEPLOYMENTS), state)
        self.state = state
        self.tidy()

    def tidy(self) -> None:
        """Have Triton load what has a part in the state, and nothing else."""
        wanted = self._present(self.state.versions if self.state else ())
        loaded = asyncio.run(require_triton(self._serving.triton_address, self._serving.model))
        if set(loaded) != set(wanted):
            time.sleep(FOLLOWED_AFTER_S)
            self._write_config(wanted)
            with contextlib.suppress(*NOT_LOADED):  # at the next change, or its next start
                asyncio.run(self._load_exactly(wanted))

    def _prove(self, version: str, manifest: Manifest, limits: Limits, say: Say) -> None:
        serving = self._serving
        before = self._present(self.state.versions if self.state else self._loaded)
        wanted = sorted({*before, version}, key=int)
        try:
            median_ms = asyncio.run(
                load_and_prove(
                    serving.triton_address,
                    serving.repository,
                    wanted,
                    version,
                    placement=serving.placement,
                    manifest=manifest,
                    limits=limits,
                )
            )
            asyncio.run(self._load_companions(wanted))
        except NOT_LOADED as error:
            with contextlib.suppress(*NOT_LOADED):  # should Triton have gone meanwhile
                asyncio.run(self._load_exactly(before))
            raise self._refused(version, error) from error
        say(f"Triton: version {version} answers as it was released to, in {median_ms:.0f} ms.")

    def _refused(self, version: str, error: Exception) -> BadVersion:
        keeps = f"Version {self.state.version} keeps serving." if self.state else "None serves."
        return BadVersion(f"version {version} is refused: {gate.first_line(error)}. {keeps}")

    def _present(self, versions: Sequence[str]) -> list[str]:
        return [one for one in versions if repository.is_whole(self._serving.repository / one)]

    async def _load_exactly(self, versions: Sequence[str]) -> None:
        serving = self._serving
        await load_exactly(serving.triton_address, serving.repository, versions, serving.placement)
        await self._load_companions(versions)

    async def _load_companions(self, versions: Sequence[str]) -> None:
        serving = self._serving
        await load_companions(
            serving.triton_address, serving.repository, versions, serving.placement
        )

    def _write_config(self, versions: Sequence[str]) -> None:
        model = self._serving.repository
        if versions:
            text = as_text(configuration(model, versions, self._serving.placement))
            repository.write_config(model, text)


def now() -> datetime:
    """The time of a change."""
    return datetime.now(UTC)
