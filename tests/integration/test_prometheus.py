"""The configuration in deploy/ on a real Prometheus, which scrapes real processes of ours."""

import asyncio
import json
import math
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlencode
from urllib.request import urlopen

import pytest
import yaml

from services.models.deployment import deploy
from tests.integration.ledger import Ledger, load
from tests.integration.support import Processes, Servers, eventually, free_port, serving_of
from tests.integration.swaps import ITEM_IDS, put_items
from tests.tiny_model import build_tiny_version

pytestmark = pytest.mark.skipif(
    shutil.which("prometheus") is None, reason="prometheus (Debian: prometheus)"
)

DEPLOY = Path(__file__).parents[2] / "deploy"
EVERY = "1s"  # of scraping and of evaluating; 10 s in deploy/
WINDOW = "10s"  # of the dashboard's rates
EMPTY = {"Shadow", "Ranker unavailable"}  # while no version is on trial, and none has failed


class Prometheus:
    """A server with our configuration, but for where the processes are and how often it asks."""

    def __init__(self, directory: Path, ports: dict[str, int]) -> None:
        config = yaml.safe_load((DEPLOY / "prometheus/prometheus.yaml").read_text())
        config["global"] = {"scrape_interval": EVERY, "evaluation_interval": EVERY}
        config["rule_files"] = [str(DEPLOY / "prometheus" / name) for name in config["rule_files"]]
        jobs = {job["job_name"]: job for job in config["scrape_configs"]}
        assert ports.keys() <= jobs.keys()
        for name, job in jobs.items():
            found = [f"127.0.0.1:{ports[name]}"] if name in ports else []
            del job["dns_sd_configs"]
            job["static_configs"] = [{"targets": found}]
        file, self._port = directory / "prometheus.yaml", free_port()
        file.write_text(yaml.safe_dump(config))
        with (directory / "prometheus.log").open("wb") as log:
            self._server = subprocess.Popen(
                [
                    "prometheus",
                    f"--config.file={file}",
                    f"--storage.tsdb.path={directory / 'series'}",
                    f"--web.listen-address=127.0.0.1:{self._port}",
                ],
                stdout=log,
                stderr=subprocess.STDOUT,
            )

    def ask(self, path: str, **parameters: str) -> Any:
        """The data of an answer of its HTTP API."""
        try:
            with urlopen(
                f"http://127.0.0.1:{self._port}/api/v1/{path}?{urlencode(parameters)}"
            ) as answer:
                said = json.load(answer)
        except OSError as error:
            raise AssertionError(str(error)) from error
        assert said["status"] == "success", said
        return said["data"]

    def rules(self, what: str) -> dict[str, str]:
        """What is said of each rule: its ``health``, or the ``state`` of its alert."""
        groups = self.ask("rules")["groups"]
        return {rule["name"]: rule[what] for group in groups for rule in group["rules"]}

    def up(self) -> set[str]:
        """The jobs of which a process answers."""
        targets = self.ask("targets")["activeTargets"]
        return {one["labels"]["job"] for one in targets if one["health"] == "up"}

    def shows(self, expression: str) -> bool:
        """Whether a panel of it would show a number."""
        found = self.ask("query", query=expression.replace("$__rate_interval", WINDOW))["result"]
        return any(not math.isnan(float(one["value"][1])) for one in found)

    def close(self) -> None:
        self._server.terminate()
        self._server.wait(30)


@pytest.fixture
def ports() -> dict[str, int]:
    return {"worker": free_port(), "archiver": free_port()}


@pytest.fixture
def prometheus(tmp_path: Path, ports: dict[str, int]) -> Iterator[Prometheus]:
    server = Prometheus(tmp_path, ports)
    yield server
    server.close()


async def test_it_understands_every_rule_and_fills_every_panel(
    stack: Servers,
    environment: dict[str, str],
    prefix: str,
    process: Processes,
    tmp_path: Path,
    ports: dict[str, int],
    prometheus: Prometheus,
) -> None:
    """A worker, its archiver and a model at work; then the worker dies, and an alert is pending."""
    ledger = Ledger(environment)
    put_items(ledger)
    version = build_tiny_version(tmp_path / "v1", ITEM_IDS)
    await asyncio.to_thread(deploy, version, serving_of(stack, prefix), say=lambda line: None)
    process("archiver", metrics_port=ports["archiver"], archive_roll_s=1)
    worker = process("worker", metrics_port=ports["worker"]).wait_ready()
    await eventually(lambda: prometheus.up() == ports.keys())
    ledger.raw(b"ada", b"garbage")

    panels = json.loads((DEPLOY / "grafana/dashboards/headrace.json").read_text())["panels"]
    expressions = {
        (panel["title"], target["expr"])
        for panel in panels
        if panel["title"] not in EMPTY
        for target in panel["targets"]
    }

    def filled() -> bool:
        assert {one for one in expressions if not prometheus.shows(one[1])} == set()
        return True

    with load(ledger, events=800, rate=40, users=20):
        await eventually(filled)
        assert set(prometheus.rules("health").values()) == {"ok"}
        assert prometheus.rules("state")["WorkerDown"] == "inactive"

    worker.kill()
    await eventually(lambda: prometheus.rules("state")["WorkerDown"] in ("pending", "firing"))
