"""The first thing that people run."""

import os
import re
import subprocess
from pathlib import Path

import psutil
import pytest

from services.settings import Settings
from tests.integration.support import HEADRACE

SMALL = ("--users", "150", "--items", "100", "--days", "4", "--epochs", "1", "--rate", "10")


def run_demo(data_dir: Path) -> "subprocess.CompletedProcess[str]":
    environment = {
        name: value for name, value in os.environ.items() if not name.startswith("HEADRACE_")
    }
    environment["HEADRACE_CACHE_DIR"] = str(Settings().cache_dir)
    return subprocess.run(
        [HEADRACE, "demo", "--data-dir", data_dir, *SMALL, "--for", "5"],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=280,
    )


@pytest.mark.timeout(300)
@pytest.mark.usefixtures("installed")
def test_the_demo_shows_everything_and_ends_by_itself(tmp_path: Path) -> None:
    """From an empty directory to slates of a trained model, with exit code 0 and nothing left."""
    done = run_demo(tmp_path / "demo")

    assert done.returncode == 0, done.stdout + done.stderr
    for said in ("history: done", "training: done", "deployment: done", "worker-1: ready"):
        assert said in done.stdout
    summary = done.stdout.strip().splitlines()[-1]
    assert re.search(r"^[\d,]+ events in, [\d,]+ slates out \(.*ranker \d+", summary), summary
    assert "fork()" not in done.stderr  # gRPC's chatter would tear the live screen
    left = [
        process.info
        for process in psutil.process_iter(["pid", "cmdline"])
        if any(str(tmp_path) in argument for argument in process.info["cmdline"] or ())
    ]
    assert left == []
