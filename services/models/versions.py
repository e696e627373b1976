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
from services.models.triton import DTYPES
from stream.keys import PADDING_KEY
from stream.ranking import Ranked

MANIFEST = "manifest.json"
FORMAT = 1
NEEDED = ("config.pbtxt", "items.safetensors", "model.py", "model.safetensors")
# They may run code when they are read.
PICKLES = (".pkl", ".pickle", ".pt", ".pth", ".bin", ".ckpt", ".joblib", ".npy", ".npz")
SCORE_TOLERANCE = 1e-2  # of scores between -14 and 14: processors round differently
SAME_ITEMS = 0.9  # of the golden ranks; neighbours with near equal scores may swap


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
                name: np.array(golden[name], dtype) for name, (_, dtype) in DTYPES.items()
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
        if Path(name).name != name or Path(name).suffix in PICKLES:
            raise BadVersion(
                f"{directory}: {name!r} may not be in a version (no pickle, no paths)."
            )
        path = directory / name
        if path.is_symlink() or not path.is_file():
            raise BadVersion(f"{directory}: {name} is missing.")
        if sha256(path) != digest:
            raise BadVersion(f"{directory}: {name} is not what was released (its SHA-256 differs).")
    _check_items(directory / "items.safetensors", manifest)
    return manifest


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
    expected = manifest.golden_answer
    ranks = expected.item_keys.shape[1]
    keys, scores = answer.item_keys[:, :ranks], answer.scores[:, :ranks]
    if keys.shape != expected.item_keys.shape:
        return f"it answers {answer.item_keys.shape[1]} items, not {ranks} or more"
    worst = float(np.abs(scores - expected.scores).max(initial=0))
    if worst > SCORE_TOLERANCE:
        return f"scores of the golden batch differ by up to {worst:.3g}"
    same = float((keys == expected.item_keys).mean())
    if same < SAME_ITEMS:
        return f"only {same:.0%} of the golden batch's items are as expected"
    return None


def sha256(path: Path) -> str:
    """The file's checksum, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
