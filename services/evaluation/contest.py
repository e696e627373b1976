"""All methods on the same queries: scores, fused scores, and what becomes of them in each view."""

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from services.evaluation.fusion import (
    Array,
    LogLinear,
    log_shares,
    log_softmax,
    reciprocal_rank_fusion,
)
from services.evaluation.judging import (
    LONGEST_LIST,
    Judged,
    best_items,
    hidden_table,
    join,
    judge,
)
from services.evaluation.queries import Queries
from services.evaluation.walking import Scores

Frozen = Callable[[Queries], Array]  # a block to logits or other scores (B, V)
View = Callable[[Queries], NDArray[np.int64]]  # a block to the items hidden from slates (B, H)
Progress = Callable[[float], None]


@dataclass(frozen=True)
class Fusion:
    """A row made of others: by reciprocal ranks, or log-linear where there are *weights*."""

    name: str
    members: tuple[str, ...]
    weights: LogLinear | None = None


@dataclass
class Contest:
    """
    What takes part, and how it is looked at.

    Attributes:
        catalogue: V, the number of items.
        views: What is hidden from the slates, by the view's name. The first one teaches fusions.
        frozen: Methods that do not count, such as a network: asked block by block.
        logits: Those of *frozen* whose scores are logits; all others are probabilities or alike.
        fusions: Rows made of others.
        learning: Whether fusions learn from each block once it has been judged.
        longest: Places that a slate has.
    """

    catalogue: int
    views: Mapping[str, View]
    frozen: Mapping[str, Frozen] = field(default_factory=dict)
    logits: frozenset[str] = frozenset()
    fusions: tuple[Fusion, ...] = ()
    learning: bool = False
    longest: int = LONGEST_LIST

    def judge(
        self,
        walked: Iterable[tuple[slice, Scores]],
        queries: Queries,
        progress: Progress = lambda share: None,
    ) -> dict[str, dict[str, Judged]]:
        """View by view and method by method, what was answered to *queries*."""
        parts: dict[str, defaultdict[str, list[Judged]]]
        parts = {view: defaultdict(list) for view in self.views}
        for part, counted in walked:
            block = queries.where(part)
            scores = self._asked(block, counted)
            logs = self._logs(scores)
            best = {name: best_items(one) for name, one in scores.items()}
            best |= {
                one.name: best_items(_fuse(one, self.catalogue, best, logs)) for one in self.fusions
            }
            for view, hide in self.views.items():
                hidden = hidden_table(hide(block), self.catalogue)
                for name, items in best.items():
                    parts[view][name].append(judge(items, block.right, hidden, self.longest))
            if self.learning:
                self._learn(block, logs)
            progress(part.stop / len(queries))
        return {
            view: {name: join(judged) for name, judged in methods.items()}
            for view, methods in parts.items()
        }

    def teach(
        self,
        walked: Iterable[tuple[slice, Scores]],
        queries: Queries,
        progress: Progress = lambda share: None,
    ) -> None:
        """Only learn the fusions' weights from *queries*."""
        for part, counted in walked:
            block = queries.where(part)
            self._learn(block, self._logs(self._asked(block, counted)))
            progress(part.stop / len(queries))

    def _asked(self, block: Queries, counted: Scores) -> dict[str, Array]:
        return {name: ask(block) for name, ask in self.frozen.items()} | counted

    def _logs(self, scores: Mapping[str, Array]) -> dict[str, Array]:
        members = {name for one in self.fusions if one.weights for name in one.members}
        return {
            name: log_softmax(one) if name in self.logits else log_shares(one)
            for name, one in scores.items()
            if name in members
        }

    def _learn(self, block: Queries, logs: Mapping[str, Array]) -> None:
        hidden = next(iter(self.views.values()))(block)
        for fusion in self.fusions:
            if fusion.weights is not None:
                chosen = [logs[name] for name in fusion.members]
                fusion.weights.learn(chosen, block.right[:, 0], hidden)


def _fuse(
    fusion: Fusion, catalogue: int, best: Mapping[str, NDArray[np.int64]], logs: Mapping[str, Array]
) -> Array:
    if fusion.weights is None:
        return reciprocal_rank_fusion([best[name] for name in fusion.members], catalogue)
    return fusion.weights.fuse([logs[name] for name in fusion.members])
