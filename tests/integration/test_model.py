"""Versions come and go on a real Triton while it answers."""

import asyncio
import json
import shutil
import signal
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import psutil
import pytest
from confluent_kafka import Consumer

from services.embedded.ports import HOST
from services.embedded.supervisor import CHECK_EVERY_S
from services.embedded.tls_front import copy
from services.models import control, repository
from services.models.config import Placement
from services.models.loading import load_exactly
from services.models.pace import Pace
from services.models.triton import TritonRanker
from services.models.versions import read_manifest, sha256
from stream.deployments import Deployment
from stream.event_types import EventType
from stream.keys import item_key
from stream.ranking import RankerInput, RankerUnavailable
from stream.topics import DEPLOYMENTS, with_prefix
from tests.integration.support import Processes, Servers, fresh_environment
from tests.tiny_model import build_tiny_version

pytestmark = pytest.mark.timeout(300)

ITEM_IDS = [f"item-{number}" for number in range(30)]
KEYS = np.array([item_key(one) for one in ITEM_IDS], np.int64)
WALKER = RankerInput(
    item_keys=KEYS[3:6],
    event_types=np.full(3, EventType.CLICK, np.int32),
    ages_s=np.array([120, 60, 0], np.float32),
    price_buckets=np.zeros(3, np.int32),
    context=np.zeros(3, np.int32),
)


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_tiny_version(tmp_path_factory.mktemp("good") / "version", ITEM_IDS)


@pytest.fixture(scope="module")
def better(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_tiny_version(tmp_path_factory.mktemp("better") / "version", ITEM_IDS, seed=2)


@pytest.fixture
async def ranker(stack: Servers) -> AsyncIterator[TritonRanker]:
    client = TritonRanker(stack.triton)
    yield client
    await client.close()


@dataclass(frozen=True)
class Shop:
    """Where the module's one good version serves: loading a model takes seconds each time."""

    environment: dict[str, str]
    process: Processes
    version: str


@pytest.fixture(scope="module")
def shop(stack: Servers, good: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shop]:
    directory = tmp_path_factory.mktemp("shop")
    with fresh_environment(stack, directory / "data") as environment:
        process = Processes(directory, environment)
        try:
            version = version_in(run(process, "model", "deploy", str(good)))
            yield Shop(environment, process, version)
        finally:
            process.end()


def run(process: Processes, *arguments: str, expected: int = 0) -> str:
    """Run ``headrace *arguments``; its output."""
    running = process(*arguments)
    code = running.popen.wait(120)
    assert code == expected, running.output
    return running.output


def version_in(output: str) -> str:
    return output.rpartition("Version ")[2].partition(" ")[0]


def announced(environment: dict[str, str]) -> Iterator[Deployment]:
    """Everything on this test's deployments.v1."""
    consumer = Consumer(
        {
            "bootstrap.servers": environment["HEADRACE_KAFKA_SERVERS"],
            "group.id": f"{environment['HEADRACE_PREFIX']}{time.monotonic_ns()}",
            "auto.offset.reset": "earliest",
            "enable.partition.eof": True,
        }
    )
    consumer.subscribe([with_prefix(environment["HEADRACE_PREFIX"], DEPLOYMENTS)])
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        message = consumer.poll(1.0)
        if message is not None and message.error():
            break  # the end of the partition
        if message is not None:
            yield Deployment.model_validate_json(message.value())
    consumer.close()


@asynccontextmanager
async def asking(ranker: TritonRanker, version: str) -> AsyncIterator[list[str]]:
    """Asks *version* all the time; the list fills with what went wrong."""
    failures: list[str] = []

    async def ask() -> None:
        while True:
            try:
                await ranker.rank([WALKER], version=version, deadline_s=5.0)
            except RankerUnavailable as error:
                failures.append(str(error))
            await asyncio.sleep(0.01)

    task = asyncio.create_task(ask())
    yield failures
    task.cancel()


async def healed(ranker: TritonRanker, version: str, within_s: float) -> float:
    """Seconds until *version* answers again."""
    started_s = time.monotonic()
    while True:
        try:
            await ranker.rank([WALKER], version=version, deadline_s=1.0)
            return time.monotonic() - started_s
        except RankerUnavailable:
            assert time.monotonic() - started_s < within_s
            await asyncio.sleep(0.1)


def stubs(models_dir: Path, version: str) -> list[psutil.Process]:
    """The processes that run the Python code of *version*."""
    path = f"{models_dir.resolve()}/ranker/{version}/model.py"
    found = []
    for process in psutil.process_iter(["cmdline"]):
        command = process.info["cmdline"] or []
        if len(command) > 1 and "python_backend_stub" in command[0] and command[1] == path:
            found.append(process)
    return found


async def test_a_deployed_version_answers_and_is_announced(shop: Shop, ranker: TritonRanker):
    """Workers follow the announcement, so it must come after the version is proved."""
    ranked = await ranker.rank([WALKER, WALKER], version=shop.version, deadline_s=5.0)

    assert ranked.item_keys[:, 0].tolist() == [KEYS[6], KEYS[6]]
    assert ranked.item_keys.shape == (2, 30)
    deployment = next(iter(announced(shop.environment)))
    assert (deployment.model, deployment.version) == ("ranker", shop.version)
    assert (deployment.revision, deployment.previous) == (1, None)
    assert set(deployment.popular) == set(ITEM_IDS)


async def test_a_batch_larger_than_triton_takes_is_split(shop: Shop, ranker: TritonRanker):
    """The worker's batch is a setting, Triton's largest is the model's."""
    ranked = await ranker.rank([WALKER] * 300, version=shop.version, deadline_s=10.0)

    assert (ranked.item_keys[:, 0] == KEYS[6]).all() and len(ranked.scores) == 300


async def test_a_batch_that_triton_no_longer_takes_whole_is_split_anew(
    shop: Shop, ranker: TritonRanker
):
    """A version of another kind, loaded beside this one, may have lowered what Triton takes."""
    await ranker.rank([WALKER], version=shop.version, deadline_s=10.0)
    ranker._contracts[shop.version] = replace(ranker._contracts[shop.version], max_batch=1000)

    ranked = await ranker.rank([WALKER] * 300, version=shop.version, deadline_s=10.0)

    assert (ranked.item_keys[:, 0] == KEYS[6]).all() and len(ranked.scores) == 300


async def test_asked_for_in_parts_each_user_has_the_same_answer(
    shop: Shop, ranker: TritonRanker, monkeypatch: pytest.MonkeyPatch
):
    """A Triton that many workers share is asked for fewer users at a time."""
    walkers = [replace(WALKER, item_keys=KEYS[first : first + 3]) for first in range(20)]
    whole = await ranker.rank(walkers, version=shop.version, deadline_s=10.0)
    monkeypatch.setattr(Pace, "users", lambda self, deadline_s: 7)

    parts = await ranker.rank(walkers, version=shop.version, deadline_s=10.0)

    assert (parts.item_keys[:, 0] == whole.item_keys[:, 0]).all()
    assert len(parts.user_vectors) == 20
    np.testing.assert_allclose(parts.user_vectors, whole.user_vectors, atol=1e-5)


async def test_a_new_version_comes_without_a_failed_request_and_goes_back(
    better: Path, shop: Shop, ranker: TritonRanker, stack: Servers
):
    """A release in the middle of the day."""
    old = shop.version
    async with asking(ranker, old) as failures:
        output = await asyncio.to_thread(
            run, shop.process, "model", "deploy", str(better), "--margin", "1"
        )
        new = version_in(output)
        await asyncio.to_thread(run, shop.process, "model", "rollback")

    assert failures == []
    assert await control.ready_versions(stack.triton, "ranker") == (old,)
    assert [one.version for one in announced(shop.environment)][-2:] == [new, old]


@asynccontextmanager
async def slow_to_accept(address: str, delay_s: float) -> AsyncIterator[str]:
    """A relay to *address* that says nothing on a new connection for *delay_s* seconds."""

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await asyncio.sleep(delay_s)
        from_triton, to_triton = await asyncio.open_connection(*address.split(":"))
        await asyncio.gather(copy(reader, to_triton), copy(from_triton, writer))

    async with await asyncio.start_server(accept, HOST, 0) as server:
        yield f"{HOST}:{server.sockets[0].getsockname()[1]}"


async def test_a_triton_that_is_slow_to_accept_a_connection_is_not_down(shop: Shop, stack: Servers):
    """As one is whose machine is busy: a connection takes it longer than an answer."""
    async with slow_to_accept(stack.triton, delay_s=0.7) as address:
        assert await control.ready_versions(address, "ranker") == (shop.version,)
        ranker = TritonRanker(address)
        await ranker.rank([WALKER], version=shop.version, deadline_s=5)
        await ranker.close()


def spoiled(good: Path, directory: Path, how: str) -> Path:
    """A version that is complete by its checksums, and yet must not serve."""
    shutil.copytree(good, directory)
    for path in (directory, *directory.iterdir()):
        path.chmod(0o755)
    manifest = json.loads((directory / "manifest.json").read_text())
    if how == "raises":
        (directory / "model.py").write_text("raise ImportError('no such module: secret_sauce')\n")
        manifest["sha256"]["model.py"] = sha256(directory / "model.py")
    elif how == "silent":
        code = (directory / "serving.py").read_text()
        code = code.replace("return Answer(self.item_keys[best],", "return Answer(best * 0,")
        (directory / "serving.py").write_text(code)
        manifest["sha256"]["serving.py"] = sha256(directory / "serving.py")
    elif how == "truncated":
        (directory / "model.safetensors").write_bytes(b"\0" * 100)
    (directory / "manifest.json").write_text(json.dumps(manifest))
    return directory


@pytest.mark.parametrize(
    ("how", "reason"),
    [
        ("raises", "no such module: secret_sauce"),
        ("silent", "golden batch"),
        ("truncated", "model.safetensors is not what was released"),
    ],
)
async def test_a_bad_version_is_refused_and_the_old_one_keeps_serving(
    good: Path,
    shop: Shop,
    ranker: TritonRanker,
    stack: Servers,
    tmp_path: Path,
    how: str,
    reason: str,
):
    """Somebody's mistake must cost them an error message and nobody else anything."""
    bad = spoiled(good, tmp_path / "bad", how)
    before = {path.name for path in (stack.models_dir / "ranker").iterdir()}

    async with asking(ranker, shop.version) as failures:
        output = await asyncio.to_thread(run, shop.process, "model", "deploy", str(bad), expected=2)

    assert reason in output and "Traceback" not in output
    assert failures == []
    assert [one.version for one in announced(shop.environment)][-1] == shop.version
    assert {path.name for path in (stack.models_dir / "ranker").iterdir()} == before


async def test_a_slow_gate_is_not_disturbed_by_whoever_heals(
    good: Path, shop: Shop, stack: Servers, tmp_path: Path
):
    """`headrace up` sees a version that answers wrongly; its second load would hang Triton."""
    bad = spoiled(good, tmp_path / "bad", "silent")
    model = stack.models_dir / "ranker"
    number = repository.next_number(model, [])
    with repository.locked(model):
        repository.copy_version(bad, model / number, read_manifest(bad))
        try:
            await load_exactly(stack.triton, model, [shop.version, number], Placement())
            on_trial = stubs(stack.models_dir, number)
            await asyncio.sleep(2.5 * CHECK_EVERY_S)
            assert stubs(stack.models_dir, number) == on_trial
        finally:
            await load_exactly(stack.triton, model, [shop.version], Placement())
            repository.remove_version(model / number)


async def test_a_killed_stub_fails_fast_and_heals_when_the_model_is_loaded_again(
    shop: Shop, ranker: TritonRanker, stack: Servers
):
    """Triton goes on calling the version ready while every call fails."""
    for stub in stubs(stack.models_dir, shop.version):
        stub.kill()

    with pytest.raises(RankerUnavailable, match=r"refused|late"):
        await ranker.rank([WALKER], version=shop.version, deadline_s=1.5)
    if stack.up_pid is None:  # nobody supervises this Triton
        await control.load(stack.triton, "ranker", timeout_s=60)
    await healed(ranker, shop.version, within_s=90.0)


async def test_a_killed_stub_is_started_anew_and_the_others_are_not(
    better: Path, shop: Shop, ranker: TritonRanker, stack: Servers
):
    """The version beside it serves people at this moment."""
    command = ("model", "deploy", str(better), "--margin", "1")
    new = version_in(await asyncio.to_thread(run, shop.process, *command))
    (victim,), (beside,) = stubs(stack.models_dir, new), stubs(stack.models_dir, shop.version)
    async with asking(ranker, shop.version) as failures:
        victim.kill()
        if stack.up_pid is None:  # nobody supervises this Triton
            await control.restart(stack.triton, "ranker", [new], timeout_s=60)
        await asyncio.sleep(0.2)
        await healed(ranker, new, within_s=90.0)

    assert stubs(stack.models_dir, shop.version) == [beside]
    assert failures == []
    await asyncio.to_thread(run, shop.process, "model", "rollback")


async def test_a_hung_model_costs_one_deadline_then_fails_fast_then_heals(
    shop: Shop, ranker: TritonRanker, stack: Servers
):
    """Each micro-batch waiting out its deadline would stall the whole stream."""
    version = shop.version
    await ranker.rank([WALKER], version=version, deadline_s=5.0)
    (stub,) = stubs(stack.models_dir, version)
    stub.send_signal(signal.SIGSTOP)
    try:
        with pytest.raises(RankerUnavailable, match="late"):
            await ranker.rank([WALKER], version=version, deadline_s=0.3)
        started_s = time.monotonic()
        for _ in range(20):
            with pytest.raises(RankerUnavailable, match="late"):
                await ranker.rank([WALKER], version=version, deadline_s=0.3)
        assert time.monotonic() - started_s < 0.3
    finally:
        stub.send_signal(signal.SIGCONT)

    assert await healed(ranker, version, within_s=10.0) < 5.0


async def test_a_batch_that_waits_for_its_turn_does_not_wait_for_a_hung_model(
    shop: Shop, ranker: TritonRanker, stack: Servers
):
    """It was let through before anybody knew."""
    version = shop.version
    await ranker.rank([WALKER], version=version, deadline_s=5.0)
    (stub,) = stubs(stack.models_dir, version)
    stub.send_signal(signal.SIGSTOP)
    try:
        batches = [ranker.rank([WALKER] * 300, version=version, deadline_s=0.5) for _ in range(2)]
        first, second = await asyncio.gather(*batches, return_exceptions=True)
    finally:
        stub.send_signal(signal.SIGCONT)

    assert "no answer within 500 ms" in str(first)
    assert "not asked" in str(second)
    await healed(ranker, version, within_s=10.0)
