"""
Make a version of the ranker without Headrace's trainer: docs/model-updates.md goes through it.

    python examples/tiny-model/build.py events.jsonl --out my-version
    headrace model verify my-version
"""

import argparse
import hashlib
import json
import shutil
from collections import Counter, defaultdict
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
from markov import Markov

from stream.keys import item_key

HERE = Path(__file__).parent
CODE = ("model.py", "markov.py")
K = 200  # items in an answer: a slate is cut from them
POPULAR = 200
GOLDEN_RANKS = 20

CONFIG = """\
backend: "python"
max_batch_size: 256
input [ {{ name: "item_keys" data_type: TYPE_INT64 dims: [ -1 ] }} ]
output [
  {{ name: "item_keys" data_type: TYPE_INT64 dims: [ {k} ] }},
  {{ name: "scores" data_type: TYPE_FP32 dims: [ {k} ] }}
]
parameters {{ key: "history_length" value {{ string_value: "10" }} }}
"""


def build(events: Path, out: Path) -> None:
    """Train on *events*, one JSON object a line, and write the version directory *out*."""
    histories: defaultdict[str, list[str]] = defaultdict(list)
    for line in events.read_text().splitlines():
        event = json.loads(line)
        if "item_id" in event:
            histories[event["user_id"]].append(event["item_id"])
    markov = Markov.fit(np.array(list(map(item_key, one)), np.int64) for one in histories.values())
    popular = Counter(item_id for one in histories.values() for item_id in one)

    out.mkdir(parents=True)
    markov.save(out)
    for name in CODE:
        shutil.copyfile(HERE / name, out / name)
    k = min(K, len(markov.item_keys))
    (out / "config.pbtxt").write_text(CONFIG.format(k=k))
    manifest = {
        "format": 1,
        "model": "ranker",
        "created_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "vocabulary_size": len(markov.item_keys),
        "k": k,
        "metrics": {},
        "popular": [item_id for item_id, _ in popular.most_common(POPULAR)],
        "golden": golden_batch(markov, k),
        "sha256": {path.name: sha256(path) for path in sorted(out.iterdir())},
    }
    (out / "manifest.json").write_text(json.dumps(manifest, indent=1))


def golden_batch(markov: Markov, k: int) -> dict[str, object]:
    """Questions and their answers: no history, one item, and an item that nobody knows."""
    known = int(markov.item_keys[0])
    keys = np.array([[0, 0], [0, known], [known, 1]], np.int64)
    best, scores = markov.rank(keys, k)
    return {
        "item_keys": keys.tolist(),
        "expected": {
            "item_keys": best[:, :GOLDEN_RANKS].tolist(),
            "scores": scores[:, :GOLDEN_RANKS].tolist(),
        },
    }


def sha256(path: Path) -> str:
    """The checksum by which a deployment knows that the file is the one that was released."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("events", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    build(arguments.events, arguments.out)
