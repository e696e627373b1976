"""The protocols on a small shop with habits: what each method may know, and what comes out."""

from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray

from services.evaluation import protocols
from services.evaluation.contest import Contest
from services.evaluation.protocols import BY_RANK, LOG_LINEAR, MARKOV, POPULAR, RANKER, Task
from services.evaluation.queries import Histories, Queries, next_in_session
from services.evaluation.results import Outcome, Row
from services.evaluation.walking import Walk
from services.training.log import EventLog
from tests.unit.evaluation.logs import MINUTE_MS, VIEW, a_log

USERS, ITEMS, STEPS = 60, 12, 6
SPLIT_MS = 30 * 60 * MINUTE_MS


def habits(seed: int = 1) -> EventLog:
    """Every item is mostly followed by the one after it; a user visits for six minutes."""
    rng = np.random.default_rng(seed)
    events = []
    for user in range(USERS):
        item = int(rng.integers(ITEMS))
        for step in range(STEPS):
            events.append((user, item, VIEW, 60 * user + step))
            item = (item + 1) % ITEMS if rng.random() < 0.8 else int(rng.integers(ITEMS))
    return a_log(*events)


FUSED = (
    protocols.Recipe(BY_RANK, (MARKOV, POPULAR)),
    protocols.Recipe(LOG_LINEAR, (MARKOV, POPULAR), log_linear=True),
)


class Successor:
    """A ranker that knows the shop's habit, and nothing else."""

    def __init__(self, histories: Histories) -> None:
        self.log = histories.log

    def __call__(self, queries: Queries) -> NDArray[np.float32]:
        """One more logit for the item that mostly follows."""
        scores = np.zeros((len(queries), len(self.log.item_ids)), np.float32)
        newest = self.log.items[queries.before]
        scores[np.arange(len(queries)), (newest + 1) % ITEMS] = np.where(queries.before >= 0, 3, 0)
        return scores


def method(outcome: Outcome, name: str) -> Row:
    """A row by its name."""
    return next(row for row in outcome.rows if row["method"] == name)


def test_live_ranks_what_follows_first_and_popularity_last() -> None:
    """The chain has counted for days when it is asked; the ranker is as good as the habit."""
    outcome = protocols.live(Task(habits(), {RANKER: Successor}), SPLIT_MS)

    assert method(outcome, RANKER)["accuracy@1"] > 0.7
    assert method(outcome, MARKOV)["accuracy@1"] > 0.6
    assert method(outcome, POPULAR)["accuracy@1"] < 0.3
    assert method(outcome, LOG_LINEAR)["hr@5"] > 0.8
    assert {"unseen", "later millisecond", "cold history", "head items"} <= outcome.splits.keys()
    assert all(
        0 <= value <= 1
        for name, value in method(outcome, RANKER).items()
        if "@" in name and not name.startswith(("novelty", "calibration"))
    )


def test_no_counter_looks_ahead() -> None:
    """The same answers, whether or not the log holds the target and what comes after it."""
    log = habits()
    last = next_in_session(log, SPLIT_MS).where(slice(0, 20))

    def lists(log: EventLog) -> NDArray[np.int64]:
        task = Task(log, {RANKER: Successor})
        histories = Histories(log)
        counters = protocols.make_counters(task)
        contest = Contest(
            ITEMS,
            {"all": lambda block: log.items[block.before][:, None]},
            {RANKER: Successor(histories)},
            frozenset([RANKER]),
            protocols.make_fusions(task, FUSED),
            learning=True,
        )
        walk = Walk(histories, np.ones(len(log), bool), counters, within_session=True)
        judged = contest.judge(walk.ask(last), last)["all"]
        return np.stack([one.lists for one in judged.values()])

    shortened = log.where(np.arange(len(log)) < last.asked_at[-1])
    scrambled = replace(log, items=log.items.copy())
    scrambled.items[last.asked_at[-1] :] = 0

    assert lists(log).tolist() == lists(shortened).tolist() == lists(scrambled).tolist()


def test_leave_one_out_has_rows_with_and_without_history() -> None:
    """Which of the two is said by the name; published figures are of the first."""
    outcome = protocols.leave_one_out(Task(habits(), {RANKER: Successor}, half_life_days=None))

    assert method(outcome, RANKER)["hr@5"] > 0.7
    assert method(outcome, f"{RANKER}{protocols.KEPT}")["targets"] == USERS
    assert method(outcome, RANKER)["targets"] <= USERS  # new items only
    weights = outcome.about["fusion weights"][LOG_LINEAR]
    assert weights[RANKER] > 0


def test_rankers_that_differ_in_their_seed_get_a_row_of_means() -> None:
    """The headline of the literature's protocol."""
    names = [f"{RANKER}, seed {seed}" for seed in (1, 2)]
    task = Task(habits(), dict.fromkeys(names, Successor), fused=tuple(names))

    outcome = protocols.leave_one_out(task)

    assert outcome.rows[0]["method"] == RANKER
    assert method(outcome, RANKER)["ndcg@10"] == pytest.approx(
        np.mean([row["ndcg@10"] for row in outcome.splits["per seed"] if row["method"] in names])
    )
    assert method(outcome, BY_RANK)["ndcg@10_low"] > 0


def test_a_time_split_judges_one_list_a_user_by_all_they_did_later() -> None:
    """And who is new has no history: popularity answers."""
    log = habits()
    returning = replace(log, users=log.users % (USERS // 2))

    outcome = protocols.time_split(Task(returning, {RANKER: Successor}), SPLIT_MS)

    assert method(outcome, RANKER)["targets"] == USERS // 2
    assert 0 < method(outcome, RANKER)["recall@5"] < method(outcome, RANKER)["hr@5"]


def test_cold_items_are_judged_alone_and_were_never_counted_before() -> None:
    """Chance is named beside them, or HR@100 would say little."""
    log = habits()
    hidden = protocols.hide_items(log, 0.25, seed=1)

    outcome = protocols.cold_items(Task(log, {RANKER: Successor}), SPLIT_MS, hidden)

    assert outcome.about["hidden items"] == 3
    assert 0 < method(outcome, RANKER)["targets"] < len(next_in_session(log, SPLIT_MS))
    assert method(outcome, "random")["hr@10"] == pytest.approx(10 / 11)
