"""Logs that a machine can read, and metrics whose names do not drift."""

import io
import json
import logging
from collections.abc import Iterator

import pytest
import structlog
from prometheus_client import CollectorRegistry

from services.telemetry import STAGES, ArchiverMetrics, WorkerMetrics, configure_logging


@pytest.fixture(autouse=True)
def restored_logging() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers = handlers
    root.setLevel(level)
    structlog.reset_defaults()


def test_our_lines_and_the_libraries_lines_are_json_of_the_same_form() -> None:
    """One parser reads the whole log of a process."""
    out = io.StringIO()
    configure_logging("auto", "info", out)

    structlog.get_logger("ours").info("batch_settled", events=3)
    logging.getLogger("theirs").warning("lost %s", "connection")

    ours, theirs = (json.loads(line) for line in out.getvalue().splitlines())
    assert (ours["event"], ours["events"], ours["level"]) == ("batch_settled", 3, "info")
    assert (theirs["event"], theirs["logger"], theirs["level"]) == (
        "lost connection",
        "theirs",
        "warning",
    )
    assert ours["timestamp"].endswith("Z")


def test_lines_below_the_level_are_not_written() -> None:
    """Debug lines carry hashed users: they appear only when asked for."""
    out = io.StringIO()
    configure_logging("json", "info", out)

    structlog.get_logger().debug("slate_published")

    assert out.getvalue() == ""


def test_a_stage_is_timed_under_its_own_label() -> None:
    """The dashboard's latency budget adds up by stage."""
    registry = CollectorRegistry()
    metrics = WorkerMetrics(registry)

    for stage in STAGES:
        metrics.observe_stage(stage, 0.002)

    for stage in STAGES:
        assert registry.get_sample_value("headrace_stage_seconds_count", {"stage": stage}) == 1


def test_outcomes_exist_before_the_first_event() -> None:
    """An alert on dead letters must see the step from nought to one."""
    registry = CollectorRegistry()

    WorkerMetrics(registry)

    labels = {"outcome": "dead_lettered"}
    assert registry.get_sample_value("headrace_events_total", labels) == 0


def test_a_finished_file_counts_records_and_bytes() -> None:
    """The archive's growth is visible without listing it."""
    registry = CollectorRegistry()

    ArchiverMetrics(registry).count_file(records=7, size_bytes=900, seconds=0.01)

    assert registry.get_sample_value("headrace_archive_records_total") == 7
    assert registry.get_sample_value("headrace_archive_bytes_total") == 900
