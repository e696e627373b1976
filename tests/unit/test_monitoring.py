"""Alerts and dashboard ask for what our processes really export, and each alert is explained."""

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from prometheus_client import CollectorRegistry
from prometheus_client.metrics import MetricWrapperBase

from services import telemetry

ROOT = Path(__file__).parents[2]
PROMETHEUS = ROOT / "deploy/prometheus"
DASHBOARD = ROOT / "deploy/grafana/dashboards/headrace.json"
SUFFIXES = {
    "counter": ("_total",),
    "gauge": ("",),
    "histogram": ("_bucket", "_sum", "_count"),
}
OF_PROMETHEUS = {"le", "instance", "job"}


def exported() -> dict[str, set[str]]:
    """Every series of every process, with its labels."""
    registry = CollectorRegistry()
    for kind in vars(telemetry).values():
        if isinstance(kind, type) and kind.__name__.endswith("Metrics"):
            kind(registry)
    return {
        family.name + suffix: labels
        for collector in registry._collector_to_names
        if isinstance(collector, MetricWrapperBase)
        for family in collector.describe()
        for labels in [{*collector._labelnames}]
        for suffix in SUFFIXES[family.type]
    }


def alerts() -> dict[str, dict[str, Any]]:
    parsed = yaml.safe_load((PROMETHEUS / "alerts.yaml").read_text())
    return {rule["alert"]: rule for group in parsed["groups"] for rule in group["rules"]}


def panels() -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(DASHBOARD.read_text())["panels"]
    return found


def expressions() -> Iterator[tuple[str, str]]:
    for name, rule in alerts().items():
        yield name, rule["expr"]
    for panel in panels():
        for target in panel["targets"]:
            yield panel["title"], target["expr"]


@pytest.mark.parametrize(("where", "expression"), list(expressions()))
def test_an_expression_asks_for_series_that_exist(where: str, expression: str) -> None:
    """Prometheus answers a name that does not exist with nothing, and the alert never fires."""
    series = exported()
    asked = set(re.findall(r"\bheadrace_\w+", expression))
    labels = {
        label
        for inside in re.findall(r"by \(([^)]*)\)|\{([^}]*)\}", expression)
        for label in re.findall(r"(\w+)(?=\s*(?:=|!|,|$))", " ".join(inside).strip())
    } - OF_PROMETHEUS

    assert asked - series.keys() == set(), where
    assert asked or "up{" in expression
    assert labels <= set().union(*(series[name] for name in asked)), where


def test_an_expression_asks_for_values_that_are_written() -> None:
    """As with names: a mistake is silent."""
    written = {
        "outcome": {*telemetry.OUTCOMES, "deployed", "refused", "not_trained"},
        "dependency": {"redis", "kafka", "ranker", "partitions"},
        "topic": {"events.v1", "signals.v1"},
        "job": {
            job["job_name"]
            for job in yaml.safe_load((PROMETHEUS / "prometheus.yaml").read_text())[
                "scrape_configs"
            ]
        },
    }

    for where, expression in expressions():
        for label, value in re.findall(r'(\w+)="([^"]*)"', expression):
            assert value in written[label], (where, label, value)


def test_every_alert_says_how_bad_it_is_and_what_to_do() -> None:
    """Whoever is woken up has read none of this."""
    manual = (ROOT / "docs/operations.md").read_text()
    explained = set(re.findall(r"^### (\w+)$", manual, re.MULTILINE))

    for name, rule in alerts().items():
        assert rule["labels"]["severity"] in ("critical", "warning"), name
        assert rule["annotations"]["summary"].endswith("."), name
    assert set(alerts()) == explained


def test_prometheus_looks_where_compose_puts_things() -> None:
    """A service that is renamed would go unwatched."""
    compose = yaml.safe_load((ROOT / "compose.yaml").read_text())
    jobs = yaml.safe_load((PROMETHEUS / "prometheus.yaml").read_text())["scrape_configs"]
    aliases = {
        alias
        for service in compose["services"].values()
        if isinstance(networks := service.get("networks"), dict)
        for alias in networks["default"]["aliases"]
    }
    port = int(compose["services"]["worker"]["environment"]["HEADRACE_METRICS_PORT"])

    for job in jobs:
        (found,) = job["dns_sd_configs"]
        assert set(found["names"]) <= compose["services"].keys() | aliases
        assert found["port"] == (8002 if job["job_name"] == "triton" else port)


def test_the_dashboard_reads_from_the_source_that_is_provisioned() -> None:
    """Panels of another source stay empty without a word."""
    provisioned = ROOT / "deploy/grafana/provisioning/datasources/prometheus.yaml"
    uids = {source["uid"] for source in yaml.safe_load(provisioned.read_text())["datasources"]}

    assert {panel["datasource"]["uid"] for panel in panels()} == uids
    assert len({panel["id"] for panel in panels()}) == len(panels())


@pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool (Debian: prometheus)")
@pytest.mark.parametrize(
    "command",
    [
        ("check", "rules", "alerts.yaml"),
        ("test", "rules", "alerts_test.yaml"),
    ],
)
def test_promtool_agrees(command: tuple[str, ...]) -> None:
    """The rules parse, and fire when and only when they should."""
    finished = subprocess.run(
        ["promtool", *command], cwd=PROMETHEUS, capture_output=True, text=True, check=False
    )

    assert finished.returncode == 0, finished.stdout + finished.stderr
