"""How good a network is on the part of a log that it has not learnt."""

import numpy as np
from numpy.typing import NDArray

from model_repo.ranker.network import Network
from model_repo.ranker.serving import Version
from services.training.evaluation import (
    Quality,
    Targets,
    baseline_ranks,
    find_targets,
    model_ranks,
    quality,
)
from services.training.log import TrainingSet
from services.training.options import TrainingOptions
from services.training.vocabulary import Vocabulary
from stream.keys import item_key

JUDGED_ACTIONS = (
    2_000_000  # the newest ones, in memory: on them, and what led to them, it is judged
)
QUICK_TARGETS = 2_000  # for stopping early


class Judge:
    """Measures a network on the part of a log that it has not learnt."""

    def __init__(
        self,
        data: TrainingSet,
        vocabulary: Vocabulary,
        options: TrainingOptions,
        from_ms: int,
    ) -> None:
        """Targets begin at *from_ms*."""
        self._log = data.newest(JUDGED_ACTIONS)
        self._keys = np.array([item_key(one) for one in data.item_ids], np.int64)
        self._vocabulary, self._options = vocabulary, options
        self._targets = find_targets(self._log, from_ms)

    @property
    def targets(self) -> int:
        """On how many actions it judges."""
        return len(self._targets.at)

    def quality(self, network: Network) -> Quality:
        """How good *network* is on all of them."""
        return quality(self._ranks(network, self._targets))

    def table(self, network: Network) -> dict[str, Quality]:
        """Its quality beside that of the baselines."""
        half_life_days = self._options.popularity_half_life_days
        popular, markov = baseline_ranks(self._log, self._targets, half_life_days)
        ranker = self._ranks(network, self._targets)
        ranks = {"ranker": ranker, "Markov chain": markov, "popularity": popular}
        return {name: quality(values) for name, values in ranks.items()}

    def ndcg(self, network: Network) -> float:
        """NDCG@10 on some of the targets, spread evenly: enough to tell when to stop."""
        every = max(1, len(self._targets.at) // QUICK_TARGETS)
        some = Targets(self._targets.at[::every], self._targets.before[::every])
        return quality(self._ranks(network, some)).ndcg_at_10

    def _ranks(self, network: Network, targets: Targets) -> NDArray[np.int64]:
        version = Version(
            network, self._vocabulary.item_keys, self._vocabulary.popularity, self._options.k
        )
        return model_ranks(version, self._log, self._keys, targets, self._options.history_length)
