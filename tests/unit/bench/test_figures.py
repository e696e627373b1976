"""What the benchmark makes of its readings."""

from dataclasses import replace

import numpy as np

from services.bench.figures import BARE_LOOP, PIPELINE, Asked, Figure
from services.bench.load import Traffic
from services.bench.report import ratios
from services.bench.scaling import STEPS, plan
from services.bench.usage import Reading

FIGURE = Figure(
    way=PIPELINE,
    traffic="uniform",
    rate=None,
    events_per_s=1000.0,
    slates_per_s=990.0,
    p50_ms=1.0,
    p90_ms=2.0,
    p99_ms=3.0,
    worst_ms=4.0,
    unanswered=0,
    batch=256.0,
    cpu_us={"kafka": 100.0, "worker-1": 200.0},
    stage_us={},
    memory_mb={},
)


def test_the_ratio_is_of_all_cpu_time_at_saturation() -> None:
    """What a slow rate costs an event says nothing: there the fixed costs have few to share."""
    figures = [
        FIGURE,
        replace(FIGURE, rate=50.0, cpu_us={"worker-1": 9999.0}),
        replace(FIGURE, way=BARE_LOOP, cpu_us={"kafka": 100.0, "bare loop": 100.0}),
    ]

    assert ratios(figures) == {"uniform": 1.5}


def test_a_stage_that_was_not_there_before_counts_from_zero() -> None:
    """A worker names a stage when it first does it."""
    before = Reading({"worker-1": 1.0}, {"rank": 2.0}, batches=10, records=100)
    after = Reading({"worker-1": 4.0}, {"rank": 3.0, "signals": 0.5}, batches=12, records=160)

    used = after.since(before)

    assert used == Reading({"worker-1": 3.0}, {"rank": 1.0, "signals": 0.5}, batches=2, records=60)


def test_traffic_is_drawn_as_its_exponent_says() -> None:
    """Uniform users are nearly alike; by Zipf's law a few do most."""
    drawn = {
        exponent: Traffic.drawn("t", ["a", "b"], users=1000, exponent=exponent, length=50_000)
        for exponent in (0.0, 1.1)
    }

    busiest = {
        exponent: np.bincount(traffic.users).max() / 50_000 for exponent, traffic in drawn.items()
    }
    assert busiest[0.0] < 0.003
    assert busiest[1.1] > 0.1


def test_one_thing_grows_at_a_time() -> None:
    """Where two change, no one can say which it was."""
    usual = Asked(seconds=1.0, exponents=(0.0,))

    steps = list(plan(None, 100_000, 1.0))

    assert {grown for grown, _, _ in steps} == set(STEPS)
    assert max(value for grown, value, _ in steps if grown in ("users", "items")) == 100_000
    for grown, value, asked in steps:
        assert getattr(asked, grown) == value
        assert replace(asked, **{grown: getattr(usual, grown)}) == usual


def test_a_fast_rate_is_offered_for_a_cycle_of_redis_log() -> None:
    """Some 80,000 events fill it: in half a minute it is written anew, or not, by chance."""
    usual = Asked()

    assert 1000 * usual.seconds_at(1000) >= 80_000
    assert usual.seconds_at(500) == 4 * usual.seconds
