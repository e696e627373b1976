"""The benchmarks measure what they say, on servers of their own."""

import json
import os
import subprocess
from pathlib import Path

import psutil
import pytest

from tests.integration.support import HEADRACE


@pytest.mark.usefixtures("installed")
def test_every_way_is_measured_in_one_run(tmp_path: Path) -> None:
    """A figure without what bounds it, taken in the same minute, says little."""
    figures_file = tmp_path / "figures.json"
    sizes = ("--items", "300", "--items", "500", "--batch", "1", "--batch", "4")

    done = subprocess.run(
        [HEADRACE, "bench", "serving", *sizes, "--dim", "8", "--seconds", "0",
         "--json", figures_file],
        capture_output=True, text=True, timeout=150, check=False,
    )  # fmt: skip

    assert done.returncode == 0, done.stderr
    figures = json.loads(figures_file.read_text())
    assert len(figures) == 2 * 2 * 4
    assert {figure["way"] for figure in figures} == {
        "Triton", "in process", "matmul + top-k", "stock fp32",
    }  # fmt: skip
    assert all(0 < figure["p50_ms"] <= figure["p99_ms"] for figure in figures)


@pytest.mark.usefixtures("installed")
def test_the_pipeline_is_measured_beside_a_bare_loop(tmp_path: Path) -> None:
    """One command gives every figure, and what an event must cost at least in the same minute."""
    figures_file, plot_file = tmp_path / "figures.json", tmp_path / "figures.png"

    done = subprocess.run(
        [HEADRACE, "bench", "--quick", "--soak", "0.1",
         "--json", figures_file, "--plot", plot_file],
        env=fresh(), capture_output=True, text=True, timeout=150, check=False,
    )  # fmt: skip

    assert done.returncode == 0, done.stderr
    report = json.loads(figures_file.read_text())
    at_most, bare, sustained, by_schedule, bare_by_schedule, grown, afterwards = report["figures"]
    assert [at_most["way"], bare["way"]] == ["pipeline", "bare loop"]
    assert by_schedule["rate"] == 50 < sustained["rate"] < at_most["events_per_s"]
    assert (bare_by_schedule["way"], bare_by_schedule["rate"]) == ("bare loop", 50)
    assert all(figure["unanswered"] == 0 for figure in report["figures"])
    assert all(0 < figure["p50_ms"] <= figure["p99_ms"] for figure in report["figures"])
    assert {"kafka", "redis", "triton", "worker-1", "generator"} <= at_most["cpu_us"].keys()
    assert at_most["stage_us"]["rank"] > 0
    assert report["ratios"]["uniform"] > 0
    assert grown["traffic"] == "uniform, full rows"
    assert afterwards["traffic"] == "uniform, full rows, afterwards"
    assert report["soak_rate"] == pytest.approx(0.8 * grown["events_per_s"])
    assert len(report["soak"]) == 2  # of five seconds each, in a tenth of a minute
    assert all(moment["events_per_s"] > 0 for moment in report["soak"])
    assert plot_file.stat().st_size > 0


@pytest.mark.usefixtures("installed")
def test_a_benchmark_that_is_stopped_leaves_nothing_behind(tmp_path: Path) -> None:
    """Whoever stops it may have no terminal: SIGTERM is as Ctrl-C."""
    bench = psutil.Popen(
        [HEADRACE, "bench", "--quick"],
        env=fresh() | {"TMPDIR": str(tmp_path)},
        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert any(line.startswith("Warming up") for line in bench.stderr)
    started = bench.children(recursive=True)
    bench.terminate()

    assert bench.wait(60) == 1
    assert not psutil.wait_procs(started, timeout=5)[1]
    assert not list(tmp_path.glob("headrace-*"))


def fresh() -> dict[str, str]:
    """The environment without addresses of other servers."""
    return {
        name: value
        for name, value in os.environ.items()
        if not name.startswith("HEADRACE_") or name == "HEADRACE_CACHE_DIR"
    }
