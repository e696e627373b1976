"""Intervals by resampling users, since one user's targets resemble each other."""

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

RESAMPLES = 1000
SEED = 1


def intervals(
    metrics: Mapping[str, NDArray[np.float64]],
    users: NDArray[np.int64],
    level: float = 0.95,
    resamples: int = RESAMPLES,
) -> dict[str, tuple[float, float]]:
    """
    The percentile bootstrap interval of each metric's mean, with whole users drawn.

    Efron & Tibshirani, An Introduction to the Bootstrap, 1993, ch. 13; clusters as in Davison &
    Hinkley, Bootstrap Methods and their Application, 1997, ch. 3.8. (`scipy.stats.bootstrap` draws
    single values, and so takes the intervals of such data to be narrower than they are.)

    Args:
        metrics: ``(N,)`` values each.
        users: ``(N,)`` whose they are.

    Returns:
        Lower and upper end of each; ``(0, 0)`` if there is nothing.
    """
    if len(users) == 0 or not metrics:
        return dict.fromkeys(metrics, (0.0, 0.0))
    of_user = np.unique(users, return_inverse=True)[1]
    columns = [np.bincount(of_user, weights=values) for values in metrics.values()]
    sums = np.stack([*columns, np.bincount(of_user)], axis=1)  # (U, M + 1), the last one sizes
    rng = np.random.default_rng(SEED)
    drawn = np.stack([_draw(rng, len(sums)) @ sums for _ in range(resamples)])  # (R, M + 1)
    ends = np.quantile(drawn[:, :-1] / drawn[:, -1:], [(1 - level) / 2, (1 + level) / 2], axis=0)
    return {name: (float(low), float(high)) for name, low, high in zip(metrics, *ends, strict=True)}


def _draw(rng: np.random.Generator, users: int) -> NDArray[np.float64]:
    """How often each user is drawn, ``(U,)``."""
    return np.bincount(rng.integers(users, size=users), minlength=users).astype(np.float64)
