"""
A real storefront's log (Google Merchandise Store, GA360 sample), by the live protocol.

Trained before 2016-10-01, judged from then on. Targets and figures are those of the live protocol;
what each kind of input adds is measured by training without it.
"""

import csv
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from services.errors import CommandFailed
from services.evaluation.contest import Frozen, Progress
from services.evaluation.lists import category_shares
from services.evaluation.parallel import run_all
from services.evaluation.protocols import NIGHTLY, RANKER, Task, live
from services.evaluation.queries import Histories
from services.evaluation.results import Outcome
from services.evaluation.training import Learner, Nightly, yesterday
from services.logs.columns import parse_mapping
from services.training.log import EventLog, read_log
from services.training.options import TrainingOptions
from services.training.pipeline import Trained
from stream.event_types import EventType
from stream.items import Item

MAPPING = ("event_type=event", "item_id=item", "event_timestamp=ts_ms:ms", "context.page=page")
SINCE_MS = 1_475_280_000_000  # 2016-10-01
PROCESSES = 2
TRAINING = 0.7  # of the progress
TYPES, TEXT, CONTEXT, FRESH = "types", "text", "context", "fresh"
PARTS = (TYPES, TEXT, CONTEXT, FRESH)


@dataclass(frozen=True)
class Ga360:
    """The log and the catalogue."""

    log: EventLog
    items: dict[str, Item]

    @classmethod
    def read(cls, directory: Path) -> "Ga360":
        """
        Read ``events.parquet`` and ``items.csv``.

        Raises:
            CommandFailed: If they are not there, or not what they should be.
        """
        log = read_log(directory / "events.parquet", parse_mapping(MAPPING))
        try:
            with (directory / "items.csv").open(newline="") as lines:
                items = {row["item"]: _item(row) for row in csv.DictReader(lines)}
        except (OSError, ValueError, KeyError) as error:
            raise CommandFailed(
                f"{directory} is not the GA360 data set ({error}). It has events.parquet, and "
                "items.csv with item, name and category."
            ) from error
        return cls(log, items)


def evaluate_ga360(
    data: Ga360,
    texts: NDArray[np.float16],
    options: TrainingOptions,
    without: Sequence[str] = PARTS,
    progress: Progress = lambda share: None,
) -> Outcome:
    """
    The ranker, frozen and fine-tuned nightly, beside the baselines; and without parts of its input.

    Args:
        texts: ``(V, text_dim)`` of the log's items.
        without: Which of `PARTS` to leave out, one at a time: event types; item texts; page,
            country, device, hour and price; the events since the midnight before.
    """
    learners = {RANKER: Learner(data.log, options, texts)}
    for part in without:
        if part != FRESH:
            learners[_without(part)] = _blind(learners[RANKER], part)
    past = data.log.times_ms < SINCE_MS
    jobs = [partial(learner.learn, past) for learner in learners.values()]
    trained = dict(
        zip(
            learners,
            run_all(jobs, PROCESSES, lambda share: progress(TRAINING * share)),
            strict=True,
        )
    )
    rankers: dict[str, Callable[[Histories], Frozen]] = {}
    for name, learner in learners.items():
        rankers[name] = partial(_served, learner, trained[name])
    rankers[NIGHTLY] = lambda histories: Nightly(learners[RANKER], trained[RANKER], histories)
    if FRESH in without:
        rankers[_without(FRESH)] = lambda histories: yesterday(
            learners[RANKER].ranker(trained[RANKER], histories), histories
        )
    task = Task(
        data.log,
        rankers,
        fused=(NIGHTLY,),
        categories=category_shares([data.items[one].categories for one in data.log.item_ids]),
        progress=lambda share: progress(TRAINING + (1 - TRAINING) * share),
    )
    outcome = live(task, SINCE_MS)
    outcome.protocol = "ga360"
    return outcome


def _served(learner: Learner, trained: Trained, histories: Histories) -> Frozen:
    """What the learner is blind to in training, it does not see in the test either."""
    return learner.ranker(trained, Histories(learner.log))


def _without(part: str) -> str:
    return f"{RANKER}, without {part}"


def _blind(learner: Learner, part: str) -> Learner:
    log = learner.log
    if part == TEXT:
        return replace(learner, texts=None)
    if part == TYPES:
        seen = replace(log, types=np.full(len(log), int(EventType.VIEW)))
    else:
        nothing = np.zeros(len(log), np.int64)
        seen = replace(log, contexts=nothing, prices=np.full(len(log), np.nan, np.float32))
    return replace(learner, log=seen)


def _item(row: dict[str, str]) -> Item:
    categories = tuple(part for part in row["category"].split("/") if part)
    return Item(item_id=row["item"], title=row["name"], categories=categories)
