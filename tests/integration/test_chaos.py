"""The short form of `make chaos`: real servers killed under load, every record accounted for."""

import math
from pathlib import Path

import pytest

from tests.chaos.generator import Traffic
from tests.chaos.run import Plan, run

pytestmark = [pytest.mark.usefixtures("installed"), pytest.mark.timeout(420)]

FAULTS = (
    "worker killed",
    "redis older",
    "stub killed",
    "worker paused",
    "redis killed",
    "kafka killed",
)
# Few events, as two cores may be busy with other tests; of users few enough to fill their lists.
TRAFFIC = Traffic(rate=80, users=200, hot_users=3, hot_share=0.4, duplicates=0.03, misplaced=0.03)


def test_whatever_is_killed_nothing_is_lost_and_nothing_is_counted_twice(tmp_path: Path) -> None:
    """The product's claim, on a stack of its own that is broken again and again."""
    said: list[str] = []
    plan = Plan(
        seed=5,
        faults=iter(FAULTS),
        load_s=math.inf,
        traffic=TRAFFIC,
        workers=2,
        fresh_s=5.0,  # not the product's goal: a machine that does other things as well
        steady_s=1.0,
    )

    report = run(plan, tmp_path / "data", said.append, lambda line: None)

    assert report.misses == [], "\n".join(said)
    assert [struck.name for struck in report.struck] == list(FAULTS)
    verdict = report.verdict
    assert verdict is not None
    assert {name for name, count in verdict.outcomes.items() if count} == {
        "folded",
        "duplicate",
        "late",
        "rekeyed",
        "dead_lettered",
    }
