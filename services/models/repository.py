"""Triton's model repository on disk: versions come in whole, never change, and leave a record."""

import contextlib
import fcntl
import os
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path

from tenacity import Retrying, retry_if_exception_type, stop_after_delay, wait_fixed

from services.errors import CommandFailed
from services.models.versions import MANIFEST, Manifest, read_manifest

CONFIG = "config.pbtxt"


def copy_version(source: Path, target: Path, manifest: Manifest) -> None:
    """Copy what the manifest lists: complete or not at all, and read-only."""
    unfinished = target.with_name(f".{target.name}.unfinished")
    remove_version(unfinished)
    unfinished.mkdir(parents=True)
    for name in (*manifest.sha256, MANIFEST):
        copy = unfinished / name
        copy.parent.mkdir(exist_ok=True)
        shutil.copyfile(source / name, copy)
        with copy.open("rb") as file:
            os.fsync(file.fileno())
        copy.chmod(0o444)
    unfinished.rename(target)
    for directory in _directories(target):
        directory.chmod(0o555)


def remove_version(directory: Path) -> None:
    """Delete a version that never served, if it is there."""
    if directory.exists():
        for inner in _directories(directory):
            inner.chmod(0o755)
        shutil.rmtree(directory)


def retire_version(directory: Path) -> None:
    """Delete all of a version but its manifest: slates go on naming it, and its number stays."""
    for inner in _directories(directory):
        inner.chmod(0o755)
    for path in directory.iterdir():
        if path.is_dir():
            shutil.rmtree(path)
        elif path.name != MANIFEST:
            path.unlink()


def is_whole(directory: Path) -> bool:
    """Whether a version is there that can be loaded, and has not been retired."""
    return (directory / CONFIG).is_file()


def next_number(model: Path, taken: Iterable[str]) -> str:
    """A version number above every one in the repository of *model*, and above *taken*."""
    present = [path.name for path in model.iterdir() if path.name.isdecimal()]
    return str(max((int(name) for name in (*present, *taken)), default=0) + 1)


def versions(model: Path) -> list[tuple[str, Manifest]]:
    """Every version that the repository of *model* knows, the retired too, oldest first."""
    found = (path for path in model.glob("*") if (path / MANIFEST).is_file())
    numbered = sorted((path.name for path in found if path.name.isdecimal()), key=int)
    return [(name, read_manifest(model / name)) for name in numbered]


def write_config(model: Path, text: str) -> None:
    """Replace what Triton loads at its start: never half of it, whoever reads."""
    unfinished = model / f".{CONFIG}.unfinished"
    with unfinished.open("w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    unfinished.rename(model / CONFIG)


@contextlib.contextmanager
def locked(model: Path, *, patience_s: float = 30.0) -> Iterator[None]:
    """
    One load of *model* at a time, whoever asks for it: a change, or `headrace up` that heals it.

    Triton may hang for good where two meet, and one takes away the directory of the other's.

    Raises:
        CommandFailed: If another is still under way after *patience_s*.
    """
    model.mkdir(parents=True, exist_ok=True)
    # Opened for appending: a file here that has changed has Triton start every version anew.
    with (model / ".lock").open("a") as file:
        try:
            for attempt in Retrying(
                retry=retry_if_exception_type(BlockingIOError),
                stop=stop_after_delay(patience_s),
                wait=wait_fixed(0.1),
                reraise=True,
            ):
                with attempt:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise CommandFailed(
                f"another change of {model} is under way, or a dead version of it is being started "
                "again. Wait for it."
            ) from error
        yield


def _directories(directory: Path) -> list[Path]:
    return [directory, *(path for path in directory.rglob("*") if path.is_dir())]
