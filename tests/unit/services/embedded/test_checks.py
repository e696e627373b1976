"""`headrace doctor` says what is wrong with a machine, and the next step."""

import os
import shutil
from collections import namedtuple
from pathlib import Path

import psutil
import pytest

from services.embedded import checks, install, jars
from services.settings import WorkerSettings

Usage = namedtuple("Usage", "total used free")


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> WorkerSettings:
    for name in list(os.environ):
        if name.startswith("HEADRACE_"):
            monkeypatch.delenv(name)
    return WorkerSettings(data_dir=tmp_path / "data", cache_dir=tmp_path / "cache")


def test_a_disk_that_is_nearly_full_is_named(
    settings: WorkerSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Redis ends when its log cannot be synced."""
    monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage(10**12, 10**12, 5 << 20))

    (data, cache) = checks.disk(settings)

    assert f"the disk of {settings.data_dir} is nearly full" in data.what
    assert "HEADRACE_DATA_DIR" in data.next_step
    assert str(settings.cache_dir) in cache.what


def test_a_processor_without_avx2_is_named(
    settings: WorkerSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Otherwise: "illegal instruction", from somewhere inside Triton."""
    flags = tmp_path / "cpuinfo"
    flags.write_text("flags : fpu sse4_2 avx\n")
    monkeypatch.setattr(checks, "CPU_FLAGS", flags)

    (finding,) = checks.machine(settings)

    assert "no AVX2" in finding.what


def test_another_operating_system_is_sent_to_compose(
    settings: WorkerSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing here can be made to work there."""
    monkeypatch.setattr("platform.machine", lambda: "arm64")

    (finding,) = checks.machine(settings)

    assert "compose.yaml" in finding.next_step


def test_too_little_memory_is_named(
    settings: WorkerSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The kernel would kill a server some minutes later, at random."""
    monkeypatch.setattr(psutil, "virtual_memory", lambda: namedtuple("M", "available")(1 << 30))

    (finding,) = checks.memory(settings)

    assert "1.0 GiB of memory" in finding.what


def test_missing_and_damaged_jars_are_told_apart(settings: WorkerSettings) -> None:
    """Both end in `headrace setup`, but a changed checksum is worth a thought."""
    directory = install.locate(settings.cache_dir).kafka_jars
    directory.mkdir(parents=True)
    damaged, *others = jars.locked()
    (directory / damaged.file_name).write_bytes(b"not it")

    found = [finding.what for finding in checks.programs(settings)]

    assert f"{len(others)} of {len(others) + 1} Kafka jars are missing" in found
    assert f"{damaged.file_name} does not have the locked SHA-256" in found
    assert "Triton's model environment is missing" in found


def test_a_server_that_was_named_and_does_not_answer_is_found(settings: WorkerSettings) -> None:
    """A typing error in an address costs an afternoon."""
    named = WorkerSettings(data_dir=settings.data_dir, redis_address="127.0.0.1:1")

    (finding,) = checks.servers(named)

    assert "Redis at 127.0.0.1:1 does not answer" in finding.what
    assert "HEADRACE_REDIS_ADDRESS" in finding.next_step
