"""`deployments.v1`: which version of a model serves whom. One compacted record a model."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any, Self

import xxhash
from pydantic import BaseModel, ConfigDict, Field

EVERYBODY = 10_000  # a canary's share is counted in this many parts


class Canary(BaseModel):
    """A version on trial with some of the users, always the same ones."""

    model_config = ConfigDict(frozen=True)

    version: str
    share: int = Field(ge=1, le=EVERYBODY, description="Of 10,000 users.")

    def takes(self, user_id: str) -> bool:
        """
        Whether *user_id* is among its users, on every worker alike.

        The version salts the hash: the next canary's users are others. A greater share keeps
        those that there were.
        """
        place = xxhash.xxh3_64_intdigest(f"{self.version}\x00{user_id}".encode()) % EVERYBODY
        return place < self.share


class Deployment(BaseModel):
    """
    The whole state of one model, which `headrace model` announces and every worker follows.

    The popular items travel with it, so that a worker has a day-zero slate even while Triton is
    down and without a file system in common with it.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    schema_version: int = 2
    model: str
    revision: int = Field(ge=1, description="One more with each change; the first record of one.")
    changed_at: datetime
    reason: str = Field(description="Of the last change, for people.")
    version: str = Field(description="Serves: the decimal name of its directory on Triton.")
    previous: str | None = Field(None, description="Served before; stays loaded, to go back to.")
    canary: Canary | None = None
    shadow: str | None = Field(None, description="Is asked what the serving one is, to compare.")
    popular: tuple[str, ...] = Field((), description="item_ids, best first, at most 200.")

    @property
    def versions(self) -> tuple[str, ...]:
        """Every version that has a part, and that Triton is to have loaded; ascending."""
        parts = (self.version, self.previous, self.canary and self.canary.version, self.shadow)
        return tuple(sorted({part for part in parts if part}, key=int))

    def version_for(self, user_id: str) -> str:
        """The version that ranks for *user_id*."""
        if self.canary is not None and self.canary.takes(user_id):
            return self.canary.version
        return self.version

    def role_of(self, version: str) -> str:
        """What *version* does now, in a few words; empty if nothing."""
        if version == self.version:
            return "serves"
        if self.canary is not None and version == self.canary.version:
            return f"canary, {self.canary.share / EVERYBODY:.2%}".replace(".00%", "%")
        if version == self.shadow:
            return "shadow"
        return "previous" if version == self.previous else ""

    def serve(self, version: str, popular: Sequence[str], *, now: datetime, reason: str) -> Self:
        """The state in which *version* serves everybody; the one that did stays at hand."""
        return self._changed(
            now,
            reason,
            version=version,
            previous=self.version if version != self.version else self.previous,
            canary=None,
            shadow=None if version == self.shadow else self.shadow,
            popular=tuple(popular),
        )

    def go_back(self, popular: Sequence[str], *, now: datetime, reason: str) -> Self:
        """
        The state in which the previous version serves again.

        The one that was left is not kept at hand: going back twice must not bring it back.
        """
        return self._changed(
            now,
            reason,
            version=self.previous,
            previous=None,
            canary=None,
            shadow=None if self.shadow == self.previous else self.shadow,
            popular=tuple(popular),
        )

    def try_on(self, canary: Canary | None, *, now: datetime, reason: str) -> Self:
        """The state with *canary*, or without one."""
        shadow = None if canary is not None and canary.version == self.shadow else self.shadow
        return self._changed(now, reason, canary=canary, shadow=shadow)

    def compare_with(self, shadow: str | None, *, now: datetime, reason: str) -> Self:
        """The state with *shadow*, or without one."""
        return self._changed(now, reason, shadow=shadow)

    def without(self, version: str, *, now: datetime, reason: str) -> Self:
        """The state in which *version*, which does not serve, has no part any more."""
        has_canary = self.canary is not None and self.canary.version == version
        return self._changed(
            now,
            reason,
            previous=None if version == self.previous else self.previous,
            canary=None if has_canary else self.canary,
            shadow=None if version == self.shadow else self.shadow,
        )

    def _changed(self, now: datetime, reason: str, **parts: Any) -> Self:
        changes = {"revision": self.revision + 1, "changed_at": now, "reason": reason, **parts}
        return self.model_copy(update=changes)


def follow(current: Deployment | None, announced: Deployment) -> Deployment:
    """
    What holds after *announced* was read: the first record of a revision, never an older one.

    So of two that change the same state at the same moment one wins, for every reader the same.
    """
    if current is not None and announced.revision <= current.revision:
        return current
    return announced
