"""What Triton is started with."""

from pathlib import Path

import pytest

from services.embedded.install import locate
from services.embedded.triton import triton


def test_a_gpus_driver_is_still_found_and_our_libraries_come_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Containers name the driver's directory in LD_LIBRARY_PATH and nowhere else."""
    monkeypatch.setenv("LD_LIBRARY_PATH", "/usr/local/nvidia/lib64:/usr/local/nvidia/lib")
    installation = locate(tmp_path)

    part = triton(installation, tmp_path, port=1, http_port=2, metrics_port=3, model_name="ranker")

    ours, theirs = str(installation.stub.libraries), "/usr/local/nvidia/lib64"
    directories = part.environment["LD_LIBRARY_PATH"].split(":")
    assert directories[0] == ours
    assert directories.index(theirs) > directories.index(str(installation.triton_libraries))
