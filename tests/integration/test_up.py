"""`headrace up`: what it starts lives as long as it does, and no longer."""

import json
import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import psutil
import pytest
import redis
from click.testing import CliRunner, Result
from confluent_kafka import Consumer, Producer, TopicPartition
from uv import find_uv_bin

from services.cli import main
from services.embedded import install, stub
from services.settings import Settings
from tests.integration.support import HEADRACE

pytestmark = pytest.mark.usefixtures("installed")


class Up:
    """A `headrace up` of a test's own, on a data directory of its own."""

    def __init__(
        self,
        data_dir: Path,
        *,
        workers: int = 0,
        archiver: bool = False,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self.data_dir = data_dir
        self.log = data_dir.with_suffix(".log")
        options = ["--workers", str(workers), "--archiver" if archiver else "--no-archiver"]
        with self.log.open("ab") as output:
            self.popen = subprocess.Popen(
                [HEADRACE, "up", "--brief", "--data-dir", data_dir, *options],
                env={**os.environ, **(environment or {})},
                stdout=output,
                stderr=output,
            )

    def wait_ready(self, timeout_s: float = 60) -> dict[str, Any]:
        """The parts, as soon as all of them are ready."""
        asked = ["status", "--wait", "--json", "--timeout", str(timeout_s)]
        waited = run(*asked, "--data-dir", str(self.data_dir))
        assert waited.exit_code == 0, self.log.read_text()
        return dict(json.loads(waited.output))

    def parts(self) -> dict[str, Any]:
        return dict(json.loads(run("status", "--json", "--data-dir", str(self.data_dir)).output))

    def family(self) -> list[psutil.Process]:
        """Every process that it has started, directly or not."""
        return psutil.Process(self.popen.pid).children(recursive=True)

    def end(self) -> None:
        if self.popen.poll() is None:
            self.popen.terminate()
            self.popen.wait(30)


def run(*arguments: str) -> Result:
    return CliRunner().invoke(main, arguments)


def wait_until(condition: Callable[[], Any], timeout_s: float = 30) -> Any:
    deadline = time.monotonic() + timeout_s
    while not (found := condition()):
        assert time.monotonic() < deadline, f"not within {timeout_s} s"
        time.sleep(0.1)
    return found


def alive(processes: list[psutil.Process]) -> list[psutil.Process]:
    return [
        process
        for process in processes
        if process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    ]


@pytest.fixture(scope="module", autouse=True)
def no_addresses() -> Iterator[None]:
    """An address that the developer has set would be used in place of a server of ours."""
    with pytest.MonkeyPatch.context() as patch:
        for setting in ("KAFKA_SERVERS", "REDIS_ADDRESS", "TRITON_ADDRESS", "DATA_DIR", "PREFIX"):
            patch.delenv(f"HEADRACE_{setting}", raising=False)
        yield


@pytest.fixture(scope="module")
def up(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Up]:
    """One for the tests that do not end it."""
    up = Up(tmp_path_factory.mktemp("up") / "data")
    up.wait_ready()
    yield up
    up.end()


def remember(parts: dict[str, Any], value: str) -> None:
    """Leave *value* in Redis and in Kafka."""
    host, port = parts["redis"]["address"].split(":")
    redis.Redis(host, int(port)).set("value", value)
    producer = Producer({"bootstrap.servers": parts["kafka"]["address"], "acks": "all"})
    producer.produce("events.v1", value.encode(), partition=0)
    assert producer.flush(10) == 0


def recall(parts: dict[str, Any]) -> tuple[str, str]:
    """What Redis and Kafka hold."""
    host, port = parts["redis"]["address"].split(":")
    kept = redis.Redis(host, int(port)).get("value")
    consumer = Consumer({"bootstrap.servers": parts["kafka"]["address"], "group.id": "test"})
    consumer.assign([TopicPartition("events.v1", 0, 0)])
    message = consumer.poll(20)
    consumer.close()
    assert isinstance(kept, bytes) and message is not None
    return kept.decode(), (message.value() or b"").decode()


def test_status_is_what_a_script_can_read(up: Up) -> None:
    """Deployment scripts wait on this, and connect to the addresses in it."""
    parts = up.wait_ready()

    assert set(parts) == {"kafka", "redis", "triton"}
    for part in parts.values():
        assert part["state"] == "ready"
        assert part["address"].startswith("127.0.0.1:")
        assert part["ready_after_s"] < 30


def test_every_port_is_bound_to_this_machine_alone(up: Up) -> None:
    """None of the servers asks for a password."""
    listening = {
        connection.laddr.ip
        for process in up.family()
        for connection in process.net_connections("tcp")
        if connection.status == psutil.CONN_LISTEN and connection.laddr
    }

    assert listening <= {"127.0.0.1", "::ffff:127.0.0.1"}


def test_a_second_up_on_the_same_data_is_refused_in_one_line(up: Up) -> None:
    """Two brokers on one log would destroy it."""
    refused = run("up", "--data-dir", str(up.data_dir))

    assert refused.exit_code == 2
    assert refused.output.count("\n") == 1
    assert f"already runs on {up.data_dir} (pid {up.popen.pid})" in refused.output


def test_a_killed_server_is_started_again_and_its_row_says_why(up: Up) -> None:
    """An operator must see that it happened, and clients must find it where it was."""
    before = up.wait_ready()["redis"]

    os.kill(before["pid"], signal.SIGKILL)
    wait_until(lambda: up.parts()["redis"]["restarts"] == before["restarts"] + 1)
    after = up.wait_ready()["redis"]

    assert after["reason"].startswith("killed by SIGKILL")
    assert after["address"] == before["address"]
    assert after["pid"] != before["pid"]


def test_a_dead_model_process_and_a_dead_server_are_noticed_and_healed(up: Up) -> None:
    """Triton goes on calling a model ready whose process is dead, while every call fails."""
    up.wait_ready()
    model = up.data_dir / "models" / "ranker"
    (model / "1").mkdir(parents=True)
    (model / "1" / "model.py").write_text(MODEL)
    (model / "config.pbtxt").write_text(MODEL_CONFIGURATION)
    wait_until(lambda: loads(up) == 1)  # without being asked for

    (stub,) = (process for process in up.family() if process.name().startswith("triton_python"))
    stub.kill()

    wait_until(lambda: loads(up) == 2)
    wait_until(lambda: up.parts()["triton"]["state"] == "ready")
    assert up.parts()["triton"]["restarts"] == 0  # the server itself went on

    os.kill(up.parts()["triton"]["pid"], signal.SIGKILL)

    wait_until(lambda: loads(up) == 3)  # a server that is started again has its models
    assert up.wait_ready()["triton"]["reason"].startswith("killed by SIGKILL")


def loads(up: Up) -> int:
    """How often Triton says that it has loaded the model."""
    said = (up.data_dir / "logs" / "triton.log").read_text()
    return said.count("successfully loaded 'ranker'")


# The smallest model that keeps the contract: it always recommends item 7.
MODEL_CONFIGURATION = """
name: "ranker"
backend: "python"
max_batch_size: 8
input [
  { name: "item_keys" data_type: TYPE_INT64 dims: [-1] },
  { name: "event_types" data_type: TYPE_INT32 dims: [-1] },
  { name: "ages_s" data_type: TYPE_FP32 dims: [-1] }
]
output [
  { name: "item_keys" data_type: TYPE_INT64 dims: [1] },
  { name: "scores" data_type: TYPE_FP32 dims: [1] }
]
parameters { key: "history_length" value { string_value: "50" } }
"""
MODEL = """
import numpy as np
import triton_python_backend_utils as pb


class TritonPythonModel:
    def execute(self, requests):
        return [self.answer(request) for request in requests]

    def answer(self, request):
        rows = len(pb.get_input_tensor_by_name(request, "item_keys").as_numpy())
        keys = np.full((rows, 1), 7, np.int64)
        return pb.InferenceResponse(
            [pb.Tensor("item_keys", keys), pb.Tensor("scores", keys.astype(np.float32))]
        )
"""


def test_a_port_that_is_taken_is_named_with_its_holder(tmp_path: Path) -> None:
    """The commonest reason for which a server does not start."""
    with socket.create_server(("127.0.0.1", 0)) as held:
        port = held.getsockname()[1]
        refused = run("up", "--data-dir", str(tmp_path), "--kafka-port", str(port))

    assert refused.exit_code == 2
    assert f"port {port} for kafka is taken by" in refused.output
    assert f"(pid {os.getpid()})" in refused.output


def test_ctrl_c_ends_everything(tmp_path: Path) -> None:
    """Nobody should have to look for Java processes afterwards."""
    up = Up(tmp_path / "data")
    up.wait_ready()
    family = up.family()

    up.popen.send_signal(signal.SIGINT)

    assert up.popen.wait(30) == 0
    assert len(family) >= 3
    assert alive(family) == []
    assert run("status", "--data-dir", str(up.data_dir)).exit_code == 1


def test_a_killed_up_leaves_nothing_running_and_the_next_one_has_all_its_data(
    tmp_path: Path,
) -> None:
    """kill -9, a closed laptop, an out-of-memory killer: `up` itself can do nothing then."""
    up = Up(tmp_path / "data")
    parts = up.wait_ready()
    remember(parts, "kept")
    family = up.family()

    up.popen.kill()
    up.popen.wait()
    again = Up(tmp_path / "data")  # at once: it waits for the old servers to end
    try:
        wait_until(lambda: not alive(family))
        found = again.wait_ready()

        assert recall(found) == ("kept", "kept")
        assert {name: part["address"] for name, part in found.items()} == {
            name: part["address"] for name, part in parts.items()
        }
        assert run("down", "--data-dir", str(again.data_dir)).exit_code == 0
        assert again.popen.wait(5) == 0
    finally:
        again.end()


def test_workers_and_archiver_run_on_servers_of_ones_own(
    environment: dict[str, str], tmp_path: Path
) -> None:
    """A shop has its Kafka already: an address that is set is used, and no server is started."""
    up = Up(tmp_path / "own", workers=2, archiver=True, environment=environment)
    try:
        parts = up.wait_ready(90)
        os.kill(parts["worker-1"]["pid"], signal.SIGKILL)
        wait_until(lambda: up.parts()["worker-1"]["restarts"] == 1)
        again = up.wait_ready(90)
    finally:
        family = up.family()
        up.end()

    assert parts["kafka"] == {**parts["kafka"], "state": "external", "pid": None}
    assert parts["kafka"]["address"] == environment["HEADRACE_KAFKA_SERVERS"]
    assert {name for name, part in parts.items() if part["state"] == "ready"} == {
        "worker-1",
        "worker-2",
        "archiver",
    }
    assert again["worker-1"]["reason"].startswith("killed by SIGKILL")
    assert alive(family) == []


def test_doctor_finds_nothing_wrong_here() -> None:
    """Otherwise its other answers are worth little."""
    healthy = run("doctor", "--data-dir", "/nonexistent/of/nobody")

    assert "programs   ok" in healthy.output
    assert "machine    ok" in healthy.output


def test_doctor_names_a_port_that_another_process_has_taken(tmp_path: Path) -> None:
    """Producers that know the port of the last run would speak to a stranger."""
    with socket.create_server(("127.0.0.1", 0)) as held:
        port = held.getsockname()[1]
        (tmp_path / "ports.json").write_text(json.dumps({"kafka": port}))
        sick = run("doctor", "--data-dir", str(tmp_path))

    assert sick.exit_code == 1
    assert f"port {port}, which kafka had, is taken by" in sick.output


def test_doctor_finds_numpy_2_in_the_model_environment(tmp_path: Path) -> None:
    """Triton would call every model ready and answer with empty tensors, without an error."""
    installed = install.locate(Settings().cache_dir).stub
    broken = stub.StubEnvironment(tmp_path)
    main_packages = (
        installed.directory / "venv/lib/python3.11/site-packages/headrace_main.pth"
    ).read_text()
    subprocess.run(
        [find_uv_bin(), "venv", "-q", "--python", installed.python, tmp_path / "venv"], check=True
    )
    (tmp_path / "venv/lib/python3.11/site-packages/main.pth").write_text(main_packages)

    assert stub.numpy_complaint(installed) is None
    assert "sees numpy 2" in (stub.numpy_complaint(broken) or "")
