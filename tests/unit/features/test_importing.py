"""What importing Feast must not do to a process."""

import subprocess
import sys

PROGRAM = """
import os
from features.importing import import_feast
import_feast()
import feast
from feast import FeatureStore
from prometheus_client import Gauge, values
assert not [name for name in os.environ if "PROMETHEUS" in name], "environment"
assert values.ValueClass.__name__ == "MutexValue", values.ValueClass
gauge = Gauge("lag", "Lag.", ["partition"])
gauge.labels("0").set(1)
gauge.remove("0")
"""


def test_metrics_stay_in_this_process_and_labels_can_go() -> None:
    """Feast asks for the multi-process mode: each value a file, each lost partition a warning."""
    finished = subprocess.run(
        [sys.executable, "-W", "error::UserWarning:__main__", "-c", PROGRAM],
        capture_output=True,
        text=True,
        check=False,
    )

    assert finished.returncode == 0, finished.stderr
    assert "multi-process" not in finished.stderr
