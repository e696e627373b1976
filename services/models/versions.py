"""A version directory seen from outside: is it whole, is it safe, does it answer as it should."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open

from services.errors import CommandFailed
from services.models import config
from services.models.triton import DTYPES
from stream.keys import PADDING_KEY
from stream.ranking import Ranked

MANIFEST = "manifest.json"
FORMAT = 1
NEEDED = ("config.pbtxt", "items.safetensors", "model.py")
COMPANION = "item_tower"  # the one directory that a version may hold: a model released with it
# They may run code when they are read.
PICKLES = (".pkl", ".pickle", ".pt", ".pth", ".bin", ".ckpt", ".joblib", ".npy", ".npz")
PICKLE_OPENING = range(2, 6)  # the protocol, after the byte 0x80
ZIP_OPENING = b"PK\x03\x04"  # torch.save writes a zip of pickles
# Of the range of the golden scores, whatever a model's scores are. They are recorded in float32
# and served in bf16, which has two digits and a half.
SCORE_TOLERANCE = 0.1
SAME_ITEMS = 0.9  # of the golden batch's slates; neighbours with near equal scores may swap


class BadVersion(CommandFailed):
    """A version that must not serve; the message says why."""


@dataclass(frozen=True)
class Manifest:
    """What `manifest.json` says, its shape checked."""

    model: str
    created_at: str
    vocabulary_size: int
    popular: tuple[str, ...]  # item_ids, best first
    metrics: Mapping[str, Any]
    sha256: Mapping[str, str]
    golden_inputs: Mapping[str, NDArray[Any]]  # (B, L) each
    golden_answer: Ranked  # (B, n) the first ranks


def read_manifest(directory: Path) -> Manifest:
    """
    Read a version's manifest.

    Raises:
        BadVersion: If it is missing or not of our shape.
    """
    path = directory / MANIFEST
    try:
        raw = json.loads(path.read_text())
    except FileNotFoundError as error:
        raise BadVersion(f"{directory} is no version: it has no {MANIFEST}.") from error
    except (ValueError, OSError) as error:
        raise BadVersion(f"{path} cannot be read: {error}.") from error
    try:
        if raw["format"] != FORMAT:
            raise BadVersion(f"{path} is of format {raw['format']}; this Headrace reads {FORMAT}.")
        golden = raw["golden"]
        return Manifest(
            model=str(raw["model"]),
            created_at=str(raw["created_at"]),
            vocabulary_size=int(raw["vocabulary_size"]),
            popular=tuple(str(one) for one in raw["popular"]),
            metrics=dict(raw["metrics"]),
            sha256={str(name): str(digest) for name, digest in raw["sha256"].items()},
            golden_inputs={
                name: np.array(golden[name], dtype)
                for name, (_, dtype) in DTYPES.items()
                if name in golden
            },
            golden_answer=Ranked(
                np.array(golden["expected"]["item_keys"], np.int64),
                np.array(golden["expected"]["scores"], np.float32),
            ),
        )
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise BadVersion(f"{path} is not a manifest: {error!r}.") from error


def verify(directory: Path) -> Manifest:
    """
    Check every file of a version directory before anything loads it.

    Raises:
        BadVersion: Naming the first file at fault and why.
    """
    manifest = read_manifest(directory)
    if missing := [name for name in NEEDED if name not in manifest.sha256]:
        raise BadVersion(f"{directory}: the manifest does not list {missing[0]}.")
    for name, digest in manifest.sha256.items():
        if problem := _problem_of(directory, name, digest):
            raise BadVersion(f"{directory}: {name} {problem}.")
    _check_items(directory / "items.safetensors", manifest)
    if problem := _golden_problem(manifest):
        raise BadVersion(f"{directory}: the golden batch {problem}.")
    try:
        problem = config.breach(config.parse((directory / "config.pbtxt").read_text()))
    except ValueError as error:
        problem = str(error)
    if problem:
        raise BadVersion(f"{directory}: config.pbtxt: {problem}.")
    return manifest


def _problem_of(directory: Path, name: str, digest: str) -> str | None:
    path = directory / name
    if Path(name).parts not in ((path.name,), (COMPANION, path.name)):
        return f"may not be in a version: only {COMPANION}/ may be a directory"
    if path.suffix in PICKLES:
        return "may not be in a version: reading a pickle runs its code"
    if path.is_symlink() or path.parent.is_symlink() or not path.is_file():
        return "is missing"
    if sha256(path) != digest:
        return "is not what was released (its SHA-256 differs)"
    if path.suffix == ".safetensors":
        return _safetensors_problem(path)
    with path.open("rb") as file:
        opening = file.read(len(ZIP_OPENING))
    is_pickle = len(opening) > 1 and opening[0] == 0x80 and opening[1] in PICKLE_OPENING
    return "is a pickle under another name" if is_pickle or opening == ZIP_OPENING else None


def _safetensors_problem(path: Path) -> str | None:
    try:
        with safe_open(path, framework="numpy"):
            return None
    except SafetensorError as error:
        return f"cannot be read: {error}"


def _golden_problem(manifest: Manifest) -> str | None:
    """The batch is what a version is proved by, so it must be able to prove something."""
    keys, expected = manifest.golden_inputs.get("item_keys"), manifest.golden_answer
    if keys is None or keys.ndim != 2 or not keys.size:
        return "has no item_keys of (rows, length)"
    if unlike := [name for name, t in manifest.golden_inputs.items() if t.shape != keys.shape]:
        return f"has {unlike[0]} of another shape than item_keys"
    if expected.scores.shape != expected.item_keys.shape or len(expected.scores) != len(keys):
        return "does not expect one row of items and scores for each of its own"
    return nonsense(expected)


def nonsense(answer: Ranked) -> str | None:
    """Why nobody can be recommended anything by *answer*; None if it may make sense."""
    if not np.isfinite(answer.scores).all():
        return "has scores that are not finite"
    if answer.scores.shape[1] > 1 and (np.ptp(answer.scores, axis=1) == 0).all():
        return "has constant scores: all items are alike"
    return None


def _check_items(path: Path, manifest: Manifest) -> None:
    try:
        with safe_open(path, framework="numpy") as tensors:
            keys = tensors.get_tensor("item_keys")
            popularity = tensors.get_tensor("popularity")
    except SafetensorError as error:
        raise BadVersion(f"{path}: {error}.") from error
    if keys.shape != (manifest.vocabulary_size,) or keys.dtype != np.int64:
        raise BadVersion(f"{path}: item_keys are not {manifest.vocabulary_size} int64.")
    if (np.diff(keys) <= 0).any() or PADDING_KEY in keys:
        raise BadVersion(f"{path}: item_keys do not ascend, or hold the padding key.")
    if popularity.shape != keys.shape or not np.isfinite(popularity).all():
        raise BadVersion(f"{path}: popularity is not one finite number an item.")


def disagreement(manifest: Manifest, answer: Ranked) -> str | None:
    """What is wrong with *answer* to the manifest's golden batch; None if nothing is."""
    if problem := nonsense(answer):
        return f"the answer to the golden batch {problem}"
    expected = manifest.golden_answer
    ranks = expected.item_keys.shape[1]
    keys, scores = answer.item_keys[:, :ranks], answer.scores[:, :ranks]
    if keys.shape != expected.item_keys.shape:
        return f"it answers {answer.item_keys.shape[1]} items, not {ranks} or more"
    found = keys[:, None, :] == expected.item_keys[:, :, None]  # (B, expected, answered)
    same = float(found.any(axis=2).mean())
    if same < SAME_ITEMS:
        return f"only {same:.0%} of the golden batch's items are as expected"
    off = np.abs(scores[:, None, :] - expected.scores[:, :, None])
    worst = float(off[found].max(initial=0)) / max(float(np.ptp(expected.scores)), 1e-9)
    if worst > SCORE_TOLERANCE:
        return f"scores of the golden batch's items differ by up to {worst:.1%} of their range"
    return None


def sha256(path: Path) -> str:
    """The file's checksum, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
