"""The benchmark measures what it says, on a Triton of its own."""

import json
import subprocess
from pathlib import Path

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
