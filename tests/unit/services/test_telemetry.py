"""Metrics whose names do not drift."""

from prometheus_client import CollectorRegistry

from services.telemetry import STAGES, ArchiverMetrics, WorkerMetrics


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


def test_the_lag_of_a_partition_that_has_gone_goes_with_it() -> None:
    """Else an alert would say for ever that a worker stands still which has nothing to do."""
    registry = CollectorRegistry()
    metrics = WorkerMetrics(registry)

    metrics.set_lags("events.v1", {0: 7, 1: 9})
    metrics.set_lags("events.v1", {1: 3})

    lags = {
        sample.labels["partition"]: sample.value
        for metric in registry.collect()
        for sample in metric.samples
        if sample.name == "headrace_consumer_lag_records"
    }
    assert lags == {"1": 3}
