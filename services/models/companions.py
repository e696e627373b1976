"""
What a version trained with text needs beside it on Triton, for items that it has never seen.

Its own item tower, under the version's number; and MiniLM, which all versions share.
"""

import filecmp
import shutil
from collections.abc import Sequence
from pathlib import Path

from services.models import config, control, repository
from services.models.config import Config, Placement
from services.models.versions import COMPANION
from services.text import weights

TEXT_ENCODER = "text_encoder"
LOAD_TIMEOUT_S = 90.0
UNLOAD_TIMEOUT_S = 10.0


async def load_companions(
    address: str, model: Path, versions: Sequence[str], placement: Placement
) -> None:
    """
    Have Triton load the item towers of just those *versions* of *model* that have one.

    What it loads is noted in the repository, for its next start.

    Args:
        model: The ranker's folder in the repository; the companions' lie beside it.
        placement: Of the ranker; MiniLM runs on that device, once.

    Raises:
        RankerUnavailable: If Triton cannot.
        CommandFailed: If MiniLM's weights are not installed, or another load is under way.
    """
    towers = model.parent / COMPANION
    with_tower = [one for one in versions if (model / one / COMPANION).is_dir()]
    if with_tower:
        await _load_text_encoder(address, model.parent / TEXT_ENCODER, placement.device)
    elif not towers.exists():
        return
    with repository.locked(towers):
        if with_tower:
            configs = {one: _place(model / one / COMPANION, towers / one) for one in with_tower}
            combined = config.combine(
                configs, model=COMPANION, versions=with_tower, placement=Placement("cpu")
            )
            await _load(address, towers, combined)
        elif await control.ready_versions(address, COMPANION):
            (towers / repository.CONFIG).unlink(missing_ok=True)
            await control.unload(address, COMPANION, timeout_s=UNLOAD_TIMEOUT_S)
        _remove_all_but(towers, with_tower)


def place_text_encoder(folder: Path) -> None:
    """
    Put MiniLM into the repository, under the name of *folder*; does nothing if it is there.

    Raises:
        CommandFailed: If the weights are not installed, or not those that were published.
    """
    code = _text_encoder_code()
    sources = [code / "model.py", code / "minilm.py"]
    sources += [weights.published() / name for name in weights.SHA256]
    version = folder / "1"
    if all(
        (version / one.name).is_file() and filecmp.cmp(one, version / one.name) for one in sources
    ):
        return
    weights.checked(weights.published())
    unfinished = folder / ".1.unfinished"
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir(parents=True)
    for source in sources:
        shutil.copy2(source, unfinished)
    shutil.rmtree(version, ignore_errors=True)
    unfinished.rename(version)


def _text_encoder_code() -> Path:
    import model_repo

    return Path(model_repo.__path__[0]) / TEXT_ENCODER


async def _load_text_encoder(address: str, folder: Path, device: str) -> None:
    if await control.ready_versions(address, TEXT_ENCODER):
        return
    alone = config.parse((_text_encoder_code() / repository.CONFIG).read_text())
    combined = config.combine(
        {"1": alone}, model=TEXT_ENCODER, versions=["1"], placement=Placement(device)
    )
    with repository.locked(folder):
        place_text_encoder(folder)
        await _load(address, folder, combined)


async def _load(address: str, folder: Path, combined: Config) -> None:
    await control.load(address, folder.name, config=combined, timeout_s=LOAD_TIMEOUT_S)
    # Noted when it is there: who looks after Triton loads what is noted and missing.
    repository.write_config(folder, config.as_text(combined))


def _place(source: Path, target: Path) -> Config:
    """Copy one version's tower, complete or not at all; its configuration."""
    if not target.exists():
        unfinished = target.with_name(f".{target.name}.unfinished")
        repository.remove_version(unfinished)
        shutil.copytree(source, unfinished)
        unfinished.rename(target)
    return config.parse((target / repository.CONFIG).read_text())


def _remove_all_but(towers: Path, versions: Sequence[str]) -> None:
    for path in towers.glob("*"):
        if path.is_dir() and path.name not in versions:
            repository.remove_version(path)
