"""
The steps of a version's life: deploy, shadow, canary, promote, rollback, retire.

Each proves what it brings in, has Triton load it beside what serves, and only then tells the
workers. Whatever goes wrong before that, all stays as it was.
"""

import math
from collections.abc import Callable
from pathlib import Path

from services.errors import CommandFailed
from services.models import repository
from services.models.change import changing, now
from services.models.proof import Limits
from services.models.serving import Serving
from services.models.versions import BadVersion
from stream.deployments import Canary, Deployment

POPULAR = 200
LIMITS = Limits()
AT_ANY_SPEED = Limits(within_ms=math.inf)  # it was quick once; who goes back is in a hurry

Say = Callable[[str], None]


def deploy(source: Path | str, serving: Serving, *, say: Say, limits: Limits = LIMITS) -> str:
    """
    Serve *source*, a version directory or the number of a version, to everybody.

    Returns:
        The version's number.

    Raises:
        BadVersion: If it is refused; what served goes on serving.
        CommandFailed: If Triton or Kafka cannot be reached.
    """
    with changing(serving) as change:
        version, manifest = change.bring_in(str(source), limits, say)
        popular = manifest.popular[:POPULAR]
        reason = f"version {version} was deployed"
        if change.state is None:
            first = Deployment(
                model=serving.model,
                revision=1,
                changed_at=now(),
                reason=reason,
                version=version,
                popular=popular,
            )
            change.announce(first)
        else:
            change.announce(change.state.serve(version, popular, now=now(), reason=reason))
    return version


def shadow(source: Path | str, serving: Serving, *, say: Say, limits: Limits = LIMITS) -> str:
    """Have *source* asked what the serving version is asked, unseen. Raises as `deploy` does."""
    with changing(serving) as change:
        state = change.require_state()
        _require_idle(state, str(source))
        version, _ = change.bring_in(str(source), limits, say)
        reason = f"version {version} became the shadow"
        change.announce(state.compare_with(version, now=now(), reason=reason))
    return version


def canary(
    source: Path | str, share: int, serving: Serving, *, say: Say, limits: Limits = LIMITS
) -> str:
    """Have *source* serve *share* of 10,000 users, or change its share. Raises as `deploy` does."""
    with changing(serving) as change:
        state = change.require_state()
        if source == state.version:
            raise CommandFailed(f"version {source} serves everybody: it cannot be the canary.")
        version, _ = change.bring_in(str(source), limits, say)
        reason = f"version {version} became the canary of {share / 100:g}% of the users"
        trial = Canary(version=version, share=share)
        change.announce(state.try_on(trial, now=now(), reason=reason))
    return version


def promote(serving: Serving, version: str | None, *, say: Say) -> str:
    """
    Serve *version* to everybody; None is the canary, or else the shadow.

    Returns:
        The version's number.

    Raises:
        BadVersion: If it does not answer any more as it was released to.
        CommandFailed: If there is none, or Triton or Kafka cannot be reached.
    """
    with changing(serving) as change:
        state = change.require_state()
        chosen = version or (state.canary.version if state.canary else state.shadow)
        if chosen is None:
            raise CommandFailed("there is no canary and no shadow: name a version to promote.")
        if chosen == state.version:
            raise CommandFailed(f"version {chosen} serves already.")
        manifest = change.load(chosen, AT_ANY_SPEED, say)
        reason = f"version {chosen} was promoted"
        popular = manifest.popular[:POPULAR]
        change.announce(state.serve(chosen, popular, now=now(), reason=reason))
    return chosen


def rollback(serving: Serving, *, say: Say) -> str:
    """
    Take back the last step: stop the canary or, where there is none, serve the previous version.

    Returns:
        What was done, in a sentence.

    Raises:
        BadVersion: If the previous version does not answer any more as it was released to.
        CommandFailed: If there is nothing to take back, or Triton or Kafka cannot be reached.
    """
    with changing(serving) as change:
        state = change.require_state()
        if state.canary is not None:
            stopped = state.canary.version
            reason = f"canary {stopped} was stopped"
            change.announce(state.try_on(None, now=now(), reason=reason))
            return f"Canary {stopped} is stopped; version {state.version} serves everybody."
        if state.previous is None:
            raise CommandFailed(
                "there is no canary, and no previous version to go back to. `headrace model "
                "promote VERSION` serves any version of `headrace model list`."
            )
        manifest = change.load(state.previous, AT_ANY_SPEED, say)
        reason = f"version {state.version} was rolled back"
        change.announce(state.go_back(manifest.popular[:POPULAR], now=now(), reason=reason))
        return f"Version {state.previous} serves again."


def retire(version: str, serving: Serving) -> None:
    """
    Take *version* out of every part but serving, unload it, and delete all but its manifest.

    Raises:
        BadVersion: If it is not there.
        CommandFailed: If it serves, or Triton or Kafka cannot be reached.
    """
    with changing(serving) as change:
        directory = serving.repository / version
        if not version.isdecimal() or not repository.is_whole(directory):
            raise BadVersion(f"there is no version {version}; see `headrace model list`.")
        state = change.state
        if state is not None and version == state.version:
            raise CommandFailed(f"version {version} serves: promote another one, or roll back.")
        if state is not None and version in state.versions:
            reason = f"version {version} was retired"
            change.announce(state.without(version, now=now(), reason=reason))
        else:
            change.tidy()
        repository.retire_version(directory)


def _require_idle(state: Deployment, version: str) -> None:
    if role := state.role_of(version):
        raise CommandFailed(f"version {version} has a part already: {role}.")
