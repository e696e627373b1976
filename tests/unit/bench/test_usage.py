"""What a process and its children are said to have used."""

import os
import subprocess
import sys
from unittest.mock import patch

import psutil
from prometheus_client import CollectorRegistry, start_http_server

from services.bench.usage import Meter
from services.telemetry import WorkerMetrics

BURN = "import time\nwhile time.process_time() < 0.3: pass\n"
# A parent whose child has worked and ended, as Redis' does that writes the log anew.
PARENT = f"""
import subprocess, sys
subprocess.run([sys.executable, "-c", {BURN!r}], check=True)
print("done", flush=True)
sys.stdin.read()
"""


def test_a_child_that_has_ended_counts_with_its_parent():
    """Its time would be there while it runs, and gone afterwards."""
    parent = subprocess.Popen(
        [sys.executable, "-c", PARENT], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    with parent:
        assert parent.stdout is not None
        assert parent.stdout.readline() == "done\n"

        assert Meter({"redis": parent.pid}).read().cpu_s["redis"] > 0.25


def test_a_child_that_ends_while_it_is_looked_at_is_left_out():
    """It has been listed, and is no longer there."""
    gone = psutil.Process()
    with (
        patch.object(psutil.Process, "children", return_value=[gone]),
        patch.object(gone, "memory_full_info", side_effect=psutil.NoSuchProcess(1)),
    ):
        assert Meter({"redis": os.getpid()}).memory_mb()["redis"] > 0


def test_the_lag_is_of_all_partitions_of_a_topic():
    """Statistics that are made later cost as much, and must not be missed."""
    registry = CollectorRegistry()
    metrics = WorkerMetrics(registry)
    metrics.set_lags("signals.v1", {0: 3, 4: 5})
    metrics.set_lags("events.v1", {0: 9})
    server, thread = start_http_server(0, "127.0.0.1", registry)
    try:
        meter = Meter({}, [f"127.0.0.1:{server.server_port}"])

        assert (meter.lag("signals.v1"), meter.lag("another")) == (8, 0)
    finally:
        server.shutdown()
        thread.join()
