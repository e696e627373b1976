"""
The named protocols: what is asked, what each method may know then, and how answers are judged.

Every method ranks the whole catalogue (metrics on sampled items mislead: Krichene & Rendle, KDD
2020) from nothing but what came before. Baselines that count learn up to the last event before
the question; what is trained has seen no target.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from services.evaluation.contest import Contest, Frozen, Fusion, Progress, View
from services.evaluation.counting import (
    Counter,
    CoVisitation,
    Markov,
    OwnItems,
    Popularity,
    VmisKnn,
)
from services.evaluation.ease import LARGEST_CATALOGUE, Ease
from services.evaluation.fusion import Array, LogLinear
from services.evaluation.judging import Judged
from services.evaluation.lists import Shop
from services.evaluation.queries import (
    NOTHING,
    Histories,
    Queries,
    after,
    last_items,
    next_in_session,
)
from services.evaluation.results import SEED, Outcome, add_list_metrics, rows, segments
from services.evaluation.walking import Walk
from services.training.log import EventLog
from stream.event_types import EventType

DAY_MS = 86_400_000
HISTORY = 100  # events that are hidden from slates, or compared with them
COLD_DEPTH = 100
TUNING_TARGETS = 4096  # validation items that fusion weights are learnt from

RANKER = "ranker"
NIGHTLY = "ranker, fine-tuned nightly"
POPULAR = "popularity"
RECENTLY_POPULAR = "popularity, 7 days"
MARKOV = "Markov chain"
CO_VISITED = "co-visitation"
VMIS = "VMIS-kNN"
OWN = "own items"
EASE = "EASE"
BY_RANK = "fused by rank"
LOG_LINEAR = "fused log-linear"


@dataclass(frozen=True)
class Task:
    """
    A log, and what takes part beside the baselines.

    Attributes:
        log: Events in order of time.
        rankers: What is trained, by name, once it is told whose histories it sees; its scores are
            logits.
        fused: Those of *rankers* that are fused with baselines.
        categories: ``(V, C)`` of the log's items, see `lists.Shop`.
        half_life_days: Of Markov chains and co-visitation; None where times mean nothing.
        backward: What a pair of items counts against time in co-visitation.
        progress: Called with the share done.
    """

    log: EventLog
    rankers: Mapping[str, Callable[[Histories], Frozen]]
    fused: tuple[str, ...] = (RANKER,)
    categories: NDArray[np.float32] | None = None
    half_life_days: float | None = 7.0
    backward: float = 0.3
    progress: Progress = lambda share: None


@dataclass(frozen=True)
class Recipe:
    """A fusion: its name, the baselines that a ranker is fused with, and how."""

    name: str
    baselines: tuple[str, ...]
    log_linear: bool = False


ALL_LIVE = tuple(
    Recipe(name, (MARKOV, CO_VISITED, VMIS, OWN), log_linear)
    for name, log_linear in ((BY_RANK, False), (LOG_LINEAR, True))
)
ONCE = (Recipe(BY_RANK, (CO_VISITED, VMIS)),)


def live(task: Task, start_ms: int) -> Outcome:
    """
    Predict, then learn: each next item of a session from *start_ms* on.

    Baselines go on counting, and the log-linear fusion goes on learning, while the log goes by.
    Slates leave out the current item, which by definition is not next; in the split "unseen" all
    items of the session, and there only targets that are new to it count.
    """
    log, histories = task.log, Histories(task.log)
    queries = next_in_session(log, start_ms)
    views: dict[str, View] = {
        "all": lambda block: log.items[block.before][:, None],
        "unseen": lambda block: histories.session_items(block.before),
    }
    rankers = {name: ranker(histories) for name, ranker in task.rankers.items()}
    past = log.times_ms < start_ms
    contest = Contest(
        len(log.item_ids),
        views,
        {**rankers, **_ease(histories, past)},
        frozenset(rankers),
        make_fusions(task, ALL_LIVE),
        learning=True,
    )
    counters = make_counters(task)
    counters[OWN] = OwnItems(Popularity(len(log.item_ids)))
    walk = Walk(histories, np.ones(len(log), bool), counters, within_session=True)
    midnights = np.flatnonzero(np.diff(log.times_ms[queries.asked_at] // DAY_MS)) + 1
    judged = contest.judge(walk.ask(queries, midnights.tolist()), queries, task.progress)

    unseen = ~(views["unseen"](queries) == queries.right).any(axis=1)
    types = log.types[queries.asked_at]
    ordered = np.isin(types, (EventType.ADD_TO_CART, EventType.PURCHASE))
    parts = {
        "carts": types == EventType.ADD_TO_CART,
        "purchases": types == EventType.PURCHASE,
        "carts and purchases": ordered,
        "later millisecond": log.times_ms[queries.asked_at] > log.times_ms[queries.before],
    }
    outcome = _outcome("live", task, histories, queries, judged["all"], past)
    outcome.splits = {
        "unseen": _part(judged["unseen"], queries, unseen),
        **{name: _part(judged["all"], queries, chosen) for name, chosen in parts.items()},
        **outcome.splits,
    }
    return outcome


def leave_one_out(task: Task, recipes: Sequence[Recipe] | None = None) -> Outcome:
    """
    Each user's last item from all before it; training has seen neither it nor the one before.

    Every method has two rows: history masked, as in most papers (an item of the user's own history
    is not recommended, and such a target does not count), and kept. The weights of log-linear
    fusions are learnt from the items before the last.

    Args:
        recipes: What is fused; by default everything, in both ways.
    """
    log, histories = task.log, Histories(task.log)
    validation, learnt = last_items(log, 2)
    queries, _ = last_items(log, 1)
    views: dict[str, View] = {
        "masked": lambda block: histories.items(block.before),
        "kept": lambda block: np.full((len(block), 1), NOTHING),
    }
    rankers = {name: ranker(histories) for name, ranker in task.rankers.items()}
    ease = _ease(histories, learnt)
    if recipes is None:
        every = (CO_VISITED, VMIS, *ease)
        recipes = (Recipe(BY_RANK, every), Recipe(LOG_LINEAR, every, log_linear=True))
    contest = Contest(
        len(log.item_ids),
        views,
        {**rankers, **ease},
        frozenset(rankers),
        make_fusions(task, recipes),
    )
    walk = Walk(histories, learnt, make_counters(task), within_session=False)
    known = int(learnt.sum())
    sample = _sample(len(validation), TUNING_TARGETS)
    validation, queries = (
        replace(one, asked_at=np.full(len(one), known)) for one in (validation, queries)
    )
    validation = validation.where(sample)
    contest.teach(walk.ask(validation), validation, lambda share: task.progress(0.2 * share))
    judged = contest.judge(walk.ask(queries), queries, lambda s: task.progress(0.2 + 0.8 * s))

    new = ~(histories.items(queries.before) == queries.right).any(axis=1)
    masked = {name: one.where(new) for name, one in judged["masked"].items()}
    outcome = _outcome("leave-one-out", task, histories, queries.where(new), masked, learnt)
    for row in _outcome("", task, histories, queries, judged["kept"], learnt).rows:
        outcome.rows.append({**row, "method": row["method"] + KEPT})
    outcome.splits["per seed"] = [row for row in outcome.rows if SEED in row["method"]]
    outcome.rows = [row for row in outcome.rows if SEED not in row["method"]]
    outcome.about["fusion weights"] = {
        one.name: dict(zip(one.members, one.weights.weights.round(3).tolist(), strict=True))
        for one in contest.fusions
        if one.weights is not None
    }
    return outcome


KEPT = ", history kept"


def time_split(task: Task, start_ms: int) -> Outcome:
    """
    All that each user acts on from *start_ms* on, from what was known at that moment.

    One slate a user, against the set of their later items; nothing is learnt after *start_ms*.
    Items of the user's history count and may be recommended.
    """
    log, histories = task.log, Histories(task.log)
    queries = after(log, start_ms)
    past = log.times_ms < start_ms
    rankers = {name: ranker(histories) for name, ranker in task.rankers.items()}
    ease = _ease(histories, past)
    views: dict[str, View] = {"all": lambda block: np.full((len(block), 1), NOTHING)}
    contest = Contest(
        len(log.item_ids), views, {**rankers, **ease}, frozenset(rankers), make_fusions(task, ONCE)
    )
    walk = Walk(histories, past, make_counters(task), within_session=False)
    judged = contest.judge(walk.ask(queries), queries, task.progress)["all"]
    return _outcome("time-split", task, histories, queries, judged, past)


def cold_items(task: Task, start_ms: int, hidden: NDArray[np.bool_]) -> Outcome:
    """
    The live protocol for targets that nothing was learnt of: HR@100 on the *hidden* items alone.

    Until *start_ms* no event on them is learnt, as if they arrived then; from then on baselines
    count them. "random" is what a list of 100 drawn from the whole catalogue would hit.

    Args:
        hidden: ``(V,)`` which items; the log's events on them before *start_ms* are dropped.
    """
    log = task.log.where(~hidden[task.log.items] | (task.log.times_ms >= start_ms))
    histories = Histories(log)
    queries = next_in_session(log, start_ms)
    queries = queries.where(hidden[queries.right[:, 0]])
    rankers = {name: ranker(histories) for name, ranker in task.rankers.items()}
    views: dict[str, View] = {"all": lambda block: log.items[block.before][:, None]}
    contest = Contest(len(log.item_ids), views, rankers, frozenset(rankers), longest=COLD_DEPTH)
    walk = Walk(histories, np.ones(len(log), bool), make_counters(task), within_session=True)
    judged = contest.judge(walk.ask(queries), queries, task.progress)["all"]
    table = rows(judged, queries, (10, 20, COLD_DEPTH))
    by_chance = {f"hr@{k}": k / (len(hidden) - 1) for k in (10, 20, COLD_DEPTH)}
    table.append({"method": "random", "targets": len(queries), **by_chance})
    about = _about(log, queries) | {"hidden items": int(hidden.sum())}
    return Outcome("cold-items", table, about=about)


def hide_items(log: EventLog, share: float, seed: int) -> NDArray[np.bool_]:
    """``(V,)`` a random *share* of the items, the same for the same *seed*."""
    rng = np.random.default_rng(seed)
    hidden = np.zeros(len(log.item_ids), bool)
    hidden[rng.permutation(len(hidden))[: round(share * len(hidden))]] = True
    return hidden


def make_counters(task: Task) -> dict[str, Counter]:
    """The baselines that count, as yet without a count."""
    items, half_life = len(task.log.item_ids), task.half_life_days
    popularity = Popularity(items)
    counters: dict[str, Counter] = {POPULAR: popularity}
    if half_life is not None:
        popularity = Popularity(items, half_life)
        counters[RECENTLY_POPULAR] = popularity
    counters[MARKOV] = Markov(popularity, half_life)
    counters[CO_VISITED] = CoVisitation(popularity, half_life, backward=task.backward)
    counters[VMIS] = VmisKnn(popularity)
    return counters


def _ease(histories: Histories, learnt: NDArray[np.bool_]) -> dict[str, Frozen]:
    """EASE from the events *learnt*, where the catalogue is small enough."""
    log = histories.log
    if len(log.item_ids) > LARGEST_CATALOGUE:
        return {}
    ease = Ease(log.users[learnt], log.items[learnt], len(log.item_ids))

    def scores(block: Queries) -> Array:
        return ease.scores(histories.items(block.before, HISTORY))

    return {EASE: scores}


def make_fusions(task: Task, recipes: Sequence[Recipe]) -> tuple[Fusion, ...]:
    """Each recipe with each ranker that is to be fused, or without one if there is none."""
    fused: list[Fusion] = []
    fusible: list[str | None] = [name for name in task.fused if name in task.rankers]
    for ranker in fusible or [None]:
        for recipe in recipes:
            members = recipe.baselines if ranker is None else (ranker, *recipe.baselines)
            name = recipe.name + (ranker or RANKER).removeprefix(RANKER)
            fused.append(
                Fusion(name, members, LogLinear(len(members)) if recipe.log_linear else None)
            )
    return tuple(fused)


def _sample(count: int, most: int) -> NDArray[np.int64]:
    return np.sort(np.random.default_rng(1).permutation(count)[:most])


def _outcome(
    protocol: str,
    task: Task,
    histories: Histories,
    queries: Queries,
    judged: Mapping[str, Judged],
    learnt: NDArray[np.bool_],
) -> Outcome:
    """Rows of all targets with everything that is measured, and the segments."""
    log = histories.log
    shop = Shop.of(log.users[learnt], log.items[learnt], len(log.item_ids), task.categories)
    known = histories.items(queries.before, HISTORY)
    table = rows(judged, queries)
    add_list_metrics(table, judged, shop, known)
    parts = segments(queries, known, shop.in_head)
    splits = {name: _part(judged, queries, chosen) for name, chosen in parts.items()}
    return Outcome(protocol, table, splits, _about(log, queries))


def _part(
    judged: Mapping[str, Judged], queries: Queries, chosen: NDArray[np.bool_]
) -> list[dict[str, object]]:
    return rows({name: one.where(chosen) for name, one in judged.items()}, queries.where(chosen))


def _about(log: EventLog, queries: Queries) -> dict[str, object]:
    return {
        "events": len(log),
        "items": len(log.item_ids),
        "targets": len(queries),
        "users": len(np.unique(queries.users)),
    }
