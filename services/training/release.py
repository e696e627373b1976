"""A version directory: everything Triton needs to serve one network, written once, read-only."""

import json
import os
import shutil
import tempfile
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

import model_repo.ranker.network as network_module
from model_repo.ranker.serving import Version
from services.errors import CommandFailed
from services.models.versions import COMPANION, FORMAT, MANIFEST, sha256
from services.training.companion import write_item_tower
from services.training.options import TrainingOptions
from services.training.pipeline import Trained, as_metrics, iso

CODE = (
    "model.py",
    "serving.py",
    "folded.py",
    "top_k.py",
    "graphs.py",
    "network.py",
    "tokens.py",
    "pretrained.py",
)
ITEM_IDS = "item_ids.json"  # of the item keys, in their order: what training goes on from
POPULAR = 200
GOLDEN_RANKS = 20

CONFIG = """\
name: "ranker"
backend: "python"
max_batch_size: 256
input [
  {{ name: "item_keys" data_type: TYPE_INT64 dims: [ -1 ] }},
  {{ name: "event_types" data_type: TYPE_INT32 dims: [ -1 ] }},
  {{ name: "ages_s" data_type: TYPE_FP32 dims: [ -1 ] }},
  {{ name: "price_buckets" data_type: TYPE_INT32 dims: [ -1 ] optional: true }},
  {{ name: "context" data_type: TYPE_INT32 dims: [ -1 ] optional: true }}
]
output [
  {{ name: "item_keys" data_type: TYPE_INT64 dims: [ {k} ] }},
  {{ name: "scores" data_type: TYPE_FP32 dims: [ {k} ] }},
  {{ name: "user_vector" data_type: TYPE_FP32 dims: [ {dim} ] }}
]
dynamic_batching {{ }}
parameters {{ key: "history_length" value {{ string_value: "{history_length}" }} }}
"""


def write_version(out: Path, trained: Trained, options: TrainingOptions) -> Path:
    """
    Write the version directory *out*: complete or not at all, and read-only afterwards.

    Raises:
        CommandFailed: If *out* exists: a version never changes.
    """
    if out.exists():
        raise CommandFailed(f"{out} exists, and a version never changes. Name another --out.")
    out.parent.mkdir(parents=True, exist_ok=True)
    unfinished = Path(tempfile.mkdtemp(prefix=f".{out.name}.", dir=out.parent))
    try:
        _write_files(unfinished, trained, options)
        make_read_only(unfinished)
        unfinished.rename(out)
    except BaseException:
        shutil.rmtree(unfinished, ignore_errors=True)
        raise
    out.chmod(0o555)
    return out


def _write_files(directory: Path, trained: Trained, options: TrainingOptions) -> None:
    from transformers.utils import logging

    from model_repo.ranker.pretrained import RankerConfig, RankerModel

    logging.disable_progress_bar()  # type: ignore[no-untyped-call]  # ours is on the screen
    model = RankerModel(RankerConfig(**asdict(trained.network.shape)))
    model.network.load_state_dict(trained.network.state_dict())
    model.save_pretrained(directory)
    vocabulary = trained.vocabulary
    save_file(
        {"item_keys": vocabulary.item_keys, "popularity": vocabulary.popularity},
        directory / "items.safetensors",
    )
    (directory / ITEM_IDS).write_text(json.dumps(vocabulary.item_ids, ensure_ascii=False))
    code = Path(network_module.__file__).parent
    for name in CODE:
        shutil.copyfile(code / name, directory / name)
    k = min(options.k, len(vocabulary.item_keys))
    config = CONFIG.format(k=k, dim=options.dim, history_length=options.history_length)
    (directory / "config.pbtxt").write_text(config)
    if trained.network.shape.text_dim:
        write_item_tower(directory / COMPANION, trained.network, vocabulary.item_keys)
    manifest = _manifest(directory, trained, options, k)
    (directory / MANIFEST).write_text(json.dumps(manifest, indent=1, ensure_ascii=False))


def _manifest(
    directory: Path, trained: Trained, options: TrainingOptions, k: int
) -> dict[str, Any]:
    vocabulary = trained.vocabulary
    popular = np.argsort(-vocabulary.popularity, kind="stable")[:POPULAR]
    return {
        "format": FORMAT,
        "model": "ranker",
        "created_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "vocabulary_size": len(vocabulary.item_keys),
        "history_length": options.history_length,
        "k": k,
        "dim": options.dim,
        "seed": options.seed,
        "data_range": [iso(trained.first_ms), iso(trained.last_ms)],
        "metrics": as_metrics(trained),
        "options": asdict(options),
        "popular": [vocabulary.item_ids[place] for place in popular.tolist()],
        "golden": golden_batch(Version.load(directory, k), options),
        "sha256": {str(path.relative_to(directory)): sha256(path) for path in files_of(directory)},
    }


def golden_batch(version: Version, options: TrainingOptions) -> dict[str, Any]:
    """Four histories (none, one item, a full one, one with an unknown item) and their answers."""
    rng = np.random.default_rng(options.seed)
    length = options.history_length
    keys = np.zeros((4, length), np.int64)
    types = np.zeros((4, length), np.int32)
    ages_s = np.zeros((4, length), np.float32)
    prices, context = np.zeros((2, 4, length), np.int32)
    for row, used in ((1, 1), (2, length), (3, min(8, length))):
        keys[row, -used:] = rng.choice(version.item_keys, used)
        types[row, -used:] = rng.integers(1, 12, used)
        ages_s[row, -used:] = np.sort(rng.integers(0, 100_000, used))[::-1]
        prices[row, -used:] = rng.integers(0, 32, used)
        context[row, -used:] = rng.integers(0, 1 << 28, used)
    keys[3, -1] = _unknown_key(version.item_keys)
    answer = version.rank(keys, types, ages_s, prices, context)
    return {
        "item_keys": keys.tolist(),
        "event_types": types.tolist(),
        "ages_s": ages_s.tolist(),
        "price_buckets": prices.tolist(),
        "context": context.tolist(),
        "expected": {
            "item_keys": answer.item_keys[:, :GOLDEN_RANKS].tolist(),
            "scores": answer.scores[:, :GOLDEN_RANKS].tolist(),
        },
    }


def _unknown_key(known: np.ndarray[Any, np.dtype[np.int64]]) -> int:
    return next(key for key in range(1, len(known) + 2) if key not in known)


def make_read_only(directory: Path) -> None:
    """Write the files in *directory* through to the disk, and allow reading them only."""
    for path in files_of(directory):
        with path.open("rb") as file:
            os.fsync(file.fileno())
        path.chmod(0o444)
    for path in directory.iterdir():
        if path.is_dir():
            path.chmod(0o555)


def files_of(directory: Path) -> list[Path]:
    """Every file in *directory* and in its companion's."""
    return sorted(path for path in directory.rglob("*") if path.is_file())
