"""
The literature's protocol on Amazon Beauty (5-core, as S3-Rec and P5 prepared it).

Leave-one-out over all items; training sees neither a user's last item nor the one before it;
fusion weights are learnt from the latter. Three networks that differ in their seed, and their mean.
"""

import ast
import csv
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from model_repo.ranker.network import Network
from model_repo.ranker.serving import Version
from services.errors import CommandFailed
from services.evaluation.contest import Frozen, Progress
from services.evaluation.lists import category_shares
from services.evaluation.network import DEPTH, Ranker
from services.evaluation.parallel import run_all
from services.evaluation.protocols import (
    CO_VISITED,
    EASE,
    RANKER,
    VMIS,
    Recipe,
    Task,
    leave_one_out,
)
from services.evaluation.queries import Histories, last_items
from services.evaluation.results import SEED, Outcome, Row
from services.training.item_sequences import train_on_sequences
from services.training.log import EventLog
from services.training.options import TrainingOptions
from stream.event_types import EventType
from stream.items import Item
from stream.keys import item_key

SEEDS = (1, 2, 3)
PROCESSES = 3  # all seeds at once: on two cores none is idle while the last one ends
TRAINING = 0.8  # of the progress

# HR@10 and NDCG@10 with the history masked, as published for this preparation of the data.
PUBLISHED = {
    "SASRec with BCE": (0.0605, 0.0318),
    "TIGER": (0.0648, 0.0384),
    "ActionPiece": (0.0775, 0.0424),
    "HSTU": (0.0788, 0.0439),
    "FuXi-alpha": (0.0809, 0.0451),
    "SASRec, sampled softmax": (0.0921, 0.0531),
    "eSASRec": (0.0928, 0.0523),
}
RECIPES = (
    Recipe("ranker + co-visitation, by rank", (CO_VISITED,)),
    Recipe("ranker + co-visitation", (CO_VISITED,), log_linear=True),
    Recipe("ranker + all", (CO_VISITED, VMIS, EASE), log_linear=True),
)


@dataclass(frozen=True)
class Beauty:
    """The data set: who acted on what in which order, and what the items are."""

    log: EventLog
    items: dict[str, Item]

    @classmethod
    def read(cls, directory: Path) -> "Beauty":
        """
        Read ``sequences.txt`` and ``items.tsv``.

        Raises:
            CommandFailed: If they are not there, or not what they should be.
        """
        try:
            log = _read_log(directory / "sequences.txt")
            return cls(log, _read_items(directory / "items.tsv"))
        except (OSError, ValueError, KeyError, SyntaxError) as error:
            raise CommandFailed(
                f"{directory} is not the Beauty data set ({error}). It has sequences.txt, one user "
                "a line (user item item …, oldest first), and items.tsv."
            ) from error


def evaluate_beauty(
    data: Beauty,
    texts: NDArray[np.float16],
    seeds: Sequence[int] = SEEDS,
    options: TrainingOptions | None = None,
    progress: Progress = lambda share: None,
) -> Outcome:
    """
    Train a network for each of *seeds*, and judge them, their fusions and the baselines.

    Args:
        texts: ``(V, text_dim)`` of the log's items.
    """
    log = data.log
    keys = np.array([item_key(item_id) for item_id in log.item_ids], np.int64)
    order = np.argsort(keys)  # the network's items are in the order of their keys
    past = log.where(last_items(log, 2)[1])
    sequences = _sequences(past, np.argsort(order) + 1)
    vectors = texts[order].astype(np.float32)
    options = options or TrainingOptions.small_data()
    jobs = [
        partial(_train, sequences, len(order), replace(options, seed=seed), vectors)
        for seed in seeds
    ]
    networks = run_all(jobs, PROCESSES, lambda share: progress(TRAINING * share))
    counts = np.bincount(past.items, minlength=len(order))[order]
    popularity = (counts / counts.sum()).astype(np.float32)

    def ranker(network: Network, histories: Histories) -> Frozen:
        version = Version(network, keys[order], popularity, DEPTH)
        return Ranker(version, histories, options.history_length)

    rankers = {
        f"{RANKER}{SEED}{seed}": partial(ranker, network)
        for seed, network in zip(seeds, networks, strict=True)
    }
    task = Task(
        log,
        rankers,
        fused=tuple(rankers),
        categories=category_shares([data.items[one].categories for one in log.item_ids]),
        half_life_days=None,  # nothing is known of when
        backward=0.0,  # the best on the item before the last
        progress=lambda share: progress(TRAINING + (1 - TRAINING) * share),
    )
    outcome = leave_one_out(task, RECIPES)
    outcome.protocol = "beauty"
    outcome.rows = [*published_rows(), *outcome.rows]
    return outcome


def published_rows() -> list[Row]:
    """What papers report, to stand beside what was measured."""
    return [
        {"method": f"{name} (published)", "hr@10": hit_rate, "ndcg@10": ndcg}
        for name, (hit_rate, ndcg) in PUBLISHED.items()
    ]


def _train(
    sequences: Sequence[NDArray[np.int64]],
    items: int,
    options: TrainingOptions,
    vectors: NDArray[np.float32],
    progress: Progress,
) -> Network:
    network = train_on_sequences(sequences, items, options, text_vectors=vectors, progress=progress)
    return network.folded().eval()


def _sequences(log: EventLog, indices: NDArray[np.int64]) -> list[NDArray[np.int64]]:
    """Each user's item *indices* ``(V,)`` in order."""
    order = np.argsort(log.users, kind="stable")
    firsts = np.flatnonzero(np.diff(log.users[order]))
    return np.split(indices[log.items[order]], firsts + 1)


def _read_log(file: Path) -> EventLog:
    """A view a line's item, a millisecond apart: the order is all that is known."""
    rows = [np.array(line.split(), np.int64) for line in file.read_text().splitlines()]
    lengths = np.array([len(row) - 1 for row in rows])
    items = np.concatenate([row[1:] for row in rows])
    first = np.cumsum(lengths) - lengths
    number = len(items)
    return EventLog(
        item_ids=tuple(str(item) for item in range(1, items.max() + 1)),
        users=np.repeat(np.arange(len(rows)), lengths),
        items=items - 1,
        types=np.full(number, int(EventType.VIEW)),
        times_ms=np.arange(number) - np.repeat(first, lengths),
        sessions=np.full(number, -1),
        prices=np.full(number, np.nan, np.float32),
        contexts=np.zeros(number, np.int64),
    ).by_time()


def _read_items(file: Path) -> dict[str, Item]:
    with file.open(newline="") as lines:
        rows = csv.DictReader(lines, delimiter="\t", quoting=csv.QUOTE_NONE)
        return {row["item"]: _item(row) for row in rows}


def _item(row: dict[str, str]) -> Item:
    categories = ast.literal_eval(f"({row['categories']},)") if row["categories"] else ()
    return Item(
        item_id=row["item"],
        title=row["title"][:1024] or row["asin"],
        brand=row["brand"] or None,
        categories=categories,
    )
