"""Having Triton load just those versions of a model that have a part."""

from collections.abc import Sequence
from pathlib import Path

from services.errors import CommandFailed
from services.models import config, control
from services.models.config import Placement
from services.models.proof import Limits, prove
from services.models.repository import CONFIG
from services.models.versions import Manifest
from stream.ranking import RankerUnavailable

LOAD_TIMEOUT_S = 90.0
UNLOAD_TIMEOUT_S = 10.0


def configuration(model: Path, versions: Sequence[str], placement: Placement) -> config.Config:
    """What Triton needs to serve *versions* of *model*, a folder of the repository, at once."""
    configs = {one: config.parse((model / one / CONFIG).read_text()) for one in versions}
    return config.combine(configs, model=model.name, versions=versions, placement=placement)


async def load_exactly(
    address: str, model: Path, versions: Sequence[str], placement: Placement
) -> None:
    """
    Have the Triton at *address* load *versions* of *model*, and no others.

    Those that are loaded already go on undisturbed, unless the new ones' inputs or outputs differ
    from theirs: then they are started again beside themselves, and requests go on being answered.

    Raises:
        RankerUnavailable: If it cannot; what was loaded goes on serving.
    """
    if not versions:
        if await control.ready_versions(address, model.name):
            await control.unload(address, model.name, timeout_s=UNLOAD_TIMEOUT_S)
        return
    wanted = configuration(model, versions, placement)
    await control.load(address, model.name, config=wanted, timeout_s=LOAD_TIMEOUT_S)
    # Triton passes over a directory that it does not see, and reports success.
    unseen = set(versions) - set(await control.ready_versions(address, model.name))
    if unseen:
        raise RankerUnavailable(
            f"refused: Triton has not loaded version {min(unseen)}. Is {model} in its model "
            "repository?"
        )


async def load_and_prove(
    address: str,
    model: Path,
    versions: Sequence[str],
    version: str,
    *,
    placement: Placement,
    manifest: Manifest,
    limits: Limits,
) -> float:
    """Load *versions*, one of which is to be proved; its median time, in ms. Raises as both do."""
    await load_exactly(address, model, versions, placement)
    return await prove(address, model.name, version, manifest, limits)


async def require_triton(address: str, model: str) -> tuple[str, ...]:
    """The versions that are loaded. Raises `CommandFailed` if Triton does not answer."""
    try:
        return await control.ready_versions(address, model)
    except RankerUnavailable as error:
        raise CommandFailed(
            f"no Triton at {address} ({error}). "
            "Start `headrace up`, or set HEADRACE_TRITON_ADDRESS."
        ) from error
