"""
Real servers for the integration tests: the embedded stack, started once for the run.

``HEADRACE_TEST_KAFKA``, ``_REDIS`` and ``_TRITON`` (host:port), with ``HEADRACE_TEST_MODELS`` (the
Triton's model repository), take its place: those of a running ``headrace up --workers 0``, say.
"""

import contextlib
import json
import os
import subprocess
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from services.embedded import install
from services.embedded.part import Part
from services.embedded.process import Guard
from services.embedded.supervisor import Supervisor
from services.settings import Settings
from tests.integration.support import HEADRACE, Processes, Servers, Supervise, fresh_environment

OWN = ("HEADRACE_TEST_KAFKA", "HEADRACE_TEST_REDIS", "HEADRACE_TEST_TRITON", "HEADRACE_TEST_MODELS")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Real servers on two cores: what a unit test may take says nothing here."""
    for item in items:
        if "tests/integration" in str(item.path) and not item.get_closest_marker("timeout"):
            item.add_marker(pytest.mark.timeout(180))


@pytest.fixture(scope="session")
def installed() -> None:
    """Skips what needs the embedded servers where they are not installed; fails under CI."""
    if absent := install.absent(install.locate(Settings().cache_dir)):
        reason = f"run `headrace setup` first: {' and '.join(absent)} are missing"
        if os.environ.get("CI"):
            pytest.fail(f"{reason}. CI must run the integration tests, not skip them")
        pytest.skip(reason)


@pytest.fixture(scope="session")
def stack(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Servers]:
    """The servers, without workers: a test starts its own, under its own prefix."""
    if all(os.environ.get(name) for name in OWN):
        kafka, redis, triton, models = (os.environ[name] for name in OWN)
        yield Servers(kafka, redis, triton, Path(models))
        return
    request.getfixturevalue("installed")
    data_dir = tmp_path_factory.mktemp("stack")
    log = data_dir / "up.log"
    # Of the environment only where things are installed: no address may lead it elsewhere.
    environment = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith("HEADRACE_") or name == "HEADRACE_CACHE_DIR"
    }
    with log.open("wb") as output:
        up = subprocess.Popen(
            [HEADRACE, "up", "--brief", "--workers", "0", "--no-archiver", "--data-dir", data_dir],
            env=environment,
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    try:
        waited = subprocess.run(
            [HEADRACE, "status", "--wait", "--json", "--timeout", "90", "--data-dir", data_dir],
            env=environment,
            capture_output=True,
            check=False,
        )
        assert waited.returncode == 0, f"the stack did not start:\n{log.read_text()}"
        parts = json.loads(waited.stdout)
        addresses = (parts[name]["address"] for name in ("kafka", "redis", "triton"))
        yield Servers(*addresses, models_dir=data_dir / "models", up_pid=up.pid)
    finally:
        up.terminate()
        up.wait(60)


@pytest.fixture
def environment(stack: Servers, tmp_path: Path) -> Iterator[dict[str, str]]:
    """``HEADRACE_*`` of a process of this test; its topics exist. See `fresh_environment`."""
    with fresh_environment(stack, tmp_path / "data") as environment:
        yield environment


@pytest.fixture
def prefix(environment: dict[str, str]) -> str:
    """Before every topic, consumer group and Feast project of this test."""
    return environment["HEADRACE_PREFIX"]


@pytest.fixture
def process(environment: dict[str, str], tmp_path: Path) -> Iterator[Processes]:
    """``process("worker", worker_instance_id="w1").wait_ready()`` starts one of ours."""
    directory = tmp_path / "processes"
    directory.mkdir()
    processes = Processes(directory, environment)
    yield processes
    processes.end()


@pytest.fixture
def supervise(tmp_path: Path) -> Supervise:
    """``async with supervise(*parts) as supervisor`` keeps parts running meanwhile."""

    @contextlib.asynccontextmanager
    async def run(*parts: Part) -> AsyncIterator[Supervisor]:
        lock = os.open(tmp_path / "lock", os.O_CREAT | os.O_RDWR)
        guard = Guard(lock)
        running = Supervisor(parts, log_dir=tmp_path, guard=guard, changed=lambda: None)
        running.start()
        try:
            yield running
        finally:
            await running.stop()
            guard.close()
            os.close(lock)

    return run
