"""What several workers say of a version, put together."""

from typing import Any

import pytest

from services.display.model_status import headline, performance_table
from services.models.status import ModelStatus, performance
from stream.deployments import Canary
from stream.reports import VersionReport
from tests.fakes import a_deployment


def a_report(**fields: Any) -> VersionReport:
    nothing = {"slates": 0, "requests": 0, "failures": {}, "recent_ms": (), "compared": 0}
    unknown = {"dropped": 0, "overlap_at_20": None, "correlation": None}
    return VersionReport(**{**nothing, **unknown, **fields})


def test_counts_are_added_and_percentiles_are_of_all_answers() -> None:
    """A mean of two workers' p99 is the p99 of nothing."""
    slow, fast = tuple([100.0] * 2), tuple([1.0] * 98)
    found = performance(
        [
            a_report(slates=3, requests=2, failures={"late": 1}, recent_ms=slow),
            a_report(slates=4, requests=98, failures={"late": 2, "down": 1}, recent_ms=fast),
        ]
    )

    assert (found.slates, found.requests) == (7, 100)
    assert found.failures == {"late": 3, "down": 1}
    assert found.p50_ms == 1.0
    assert found.p99_ms == pytest.approx(100, abs=1)


def test_means_are_weighted_by_the_users_compared() -> None:
    """A worker that has just begun says little."""
    found = performance(
        [a_report(compared=30, overlap_at_20=0.5), a_report(compared=10, overlap_at_20=0.9)]
    )

    assert found.overlap_at_20 == pytest.approx(0.6)
    assert found.correlation is None


def test_the_headline_names_who_has_not_followed() -> None:
    """A worker that is cut off goes on with what it knows."""
    state = a_deployment(revision=7, version="3", canary=Canary(version="4", share=500))
    found = ModelStatus(state, loaded=("3",), workers={"w1": 7, "w2": 6}, versions={})

    lines = "\n".join(headline(found))
    assert "Revision 7" in lines and "a test" in lines
    assert "not loaded version 4" in lines
    assert "w2 follows revision 6" in lines and "w1 follows" not in lines
    assert performance_table(found).row_count == 2


def test_before_the_first_deployment_the_next_step_is_named() -> None:
    """An empty table would leave people alone."""
    found = ModelStatus(None, loaded=(), workers={}, versions={})

    assert "headrace model deploy" in headline(found)[0]
