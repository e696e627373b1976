"""What a version must show before it takes part: that it is known, good, right and quick."""

import statistics
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors import safe_open

from services.models import control
from services.models.versions import BadVersion, Manifest, disagreement
from stream.keys import item_key

ASKED = 20  # times, for the median
TIMEOUT_S = 10.0
METRIC = "hr_at_20"

Say = Callable[[str], None]


@dataclass(frozen=True)
class Limits:
    """What is asked of a version."""

    least_coverage: float = 0.5  # share of the live catalogue that it must know
    margin: float = 0.02  # of HR@20, by which it may be below the serving one
    within_ms: float = 100.0  # median time of the golden batch
    items: frozenset[str] = frozenset()  # the catalogue, where items.v1 is not to be asked


def check_coverage(directory: Path, items: frozenset[str], limits: Limits) -> float:
    """
    The share of the live catalogue that the version in *directory* knows.

    Raises:
        BadVersion: If that is too little: the rest could never be recommended.
    """
    with safe_open(directory / "items.safetensors", framework="numpy") as tensors:
        known: NDArray[np.int64] = tensors.get_tensor("item_keys")
    keys = np.fromiter(map(item_key, items), np.int64, len(items))
    share = float(np.isin(keys, known).mean())
    if share < limits.least_coverage:
        raise BadVersion(
            f"{directory} knows {share:.0%} of the {len(items):,} items in the catalogue; "
            f"{limits.least_coverage:.0%} are asked for. Train on newer events, or give "
            "--least-coverage."
        )
    return share


def check_quality(manifest: Manifest, serving: Manifest, limits: Limits) -> str:
    """
    Compare what both versions scored, where the same protocol measured both.

    A version that goes on from the serving one was judged beside it, on what was new to both.

    Returns:
        What was found, in words.

    Raises:
        BadVersion: If the new one is worse by more than the margin.
    """
    new, old = _measured(manifest), _measured(serving)
    before = manifest.metrics.get("before", {})
    if new is not None and before.get("created_at") == serving.created_at:
        old = float(before[METRIC]), new[1]
    if new is None or old is None:
        return "HR@20 was not measured of both versions, so it was not compared"
    if new[1] != old[1]:
        return "HR@20 was measured by another protocol than the serving version's: not compared"
    if new[0] < old[0] - limits.margin:
        raise BadVersion(
            f"its HR@20 is {new[0]:.4f}, and the serving version's {old[0]:.4f}: more than "
            f"{limits.margin:g} below. Give --margin if that is meant."
        )
    return f"HR@20 {new[0]:.4f}; the serving version's was {old[0]:.4f}"


def _measured(manifest: Manifest) -> tuple[float, object] | None:
    measured = manifest.metrics.get("ranker")
    value = measured.get(METRIC) if isinstance(measured, dict) else None
    if not isinstance(value, float | int):
        return None
    return float(value), manifest.metrics.get("protocol")


async def prove(
    address: str, model: str, version: str, manifest: Manifest, limits: Limits
) -> float:
    """
    Ask a loaded version for the golden batch, again and again.

    Returns:
        The median time of an answer, in ms.

    Raises:
        BadVersion: If an answer is not what was released, or they are too slow.
        RankerUnavailable: If there is none.
    """
    answered = await control.timed_answers(
        address, model, version, manifest.golden_inputs, times=ASKED, timeout_s=TIMEOUT_S
    )
    for answer, _ in answered:
        if problem := disagreement(manifest, answer):
            raise BadVersion(problem)
    median_ms = statistics.median(seconds for _, seconds in answered) * 1000
    if median_ms > limits.within_ms:
        raise BadVersion(
            f"the golden batch takes {median_ms:.0f} ms, and {limits.within_ms:g} are allowed. "
            "Make the model smaller, or give --within-ms"
        )
    return median_ms
