"""From an event to the right slate, through Kafka, Feast on Redis, Triton and Kafka again."""

import asyncio
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import orjson
import psutil
import pytest
from click.testing import CliRunner
from confluent_kafka import Message

from services.cli import main
from services.models.deployment import deploy
from services.models.serving import Serving
from services.models.triton import TritonRanker
from stream import topics
from stream.keys import item_key, partition_of
from stream.topics import with_prefix
from tests.builders import T0_MS
from tests.integration.ledger import Ledger, read_topic
from tests.integration.support import (
    Processes,
    Running,
    Servers,
    eventually,
    fresh_environment,
    serving_of,
)
from tests.tiny_model import build_tiny_version

ITEMS = [f"i{n}" for n in range(40)]


class Shop(Ledger):
    """A ledger with a catalogue, a model and a worker."""

    serving: Serving
    directory: Path
    worker: Running

    def put_item(self, item_id: str, **fields: Any) -> None:
        value = orjson.dumps({"item_id": item_id, "title": f"The {item_id}", **fields})
        self.producer.produce(self.topic(topics.ITEMS), key=item_id.encode(), value=value)

    def delete_item(self, item_id: str) -> None:
        self.producer.produce(self.topic(topics.ITEMS), key=item_id.encode(), value=None)

    def deploy(self, seed: int) -> str:
        version = build_tiny_version(self.directory / f"v{seed}", ITEMS, seed=seed)
        return deploy(version, self.serving, say=lambda line: None)

    async def slate_after(self, event: dict[str, Any], *, timeout_s: float = 20) -> dict[str, Any]:
        """The slate that *event*, just sent, triggered."""
        self.flush()

        def answer() -> dict[str, Any] | None:
            mine = self.slates_after(event)
            return mine[-1] if mine else None

        found: dict[str, Any] = await eventually(answer, timeout_s=timeout_s)
        return found


@pytest.fixture(scope="module")
def shop(stack: Servers, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shop]:
    """One shop and one worker for all tests of this module."""
    directory = tmp_path_factory.mktemp("shop")
    with fresh_environment(stack, directory / "data") as environment:
        shop = Shop(environment)
        shop.directory = directory
        shop.serving = serving_of(stack, shop.prefix)
        for item_id in ITEMS:
            shop.put_item(item_id)
        shop.flush()
        shop.deploy(seed=1)
        processes = Processes(directory, environment)
        shop.worker = processes("worker", slate_size=5, trace_share=1).wait_ready()
        yield shop
        processes.end()


def shown(slate: dict[str, Any]) -> list[str]:
    return [item["item_id"] for item in slate["items"]]


async def test_an_event_becomes_the_right_slate(shop: Shop) -> None:
    """The slate is what the model, asked directly, ranks best of what may be shown."""
    for number, item_id in enumerate(("i3", "i4", "i5")):
        event = shop.send(user_id="ada", item_id=item_id, at_ms=T0_MS + number * 60_000)
    bought = shop.send(user_id="ada", event_type="purchase", item_id="i6", at_ms=T0_MS + 200_000)

    slate = await shop.slate_after(bought)

    ranker = TritonRanker(shop.serving.triton_address)
    history = shop.row("ada").ranker_input(128)
    direct = await ranker.rank([history], version=slate["model"]["version"], deadline_s=10)
    await ranker.close()
    names = {item_key(item_id): item_id for item_id in ITEMS}
    best = [
        names[key] for key in direct.item_keys[0].tolist() if key in names and names[key] != "i6"
    ]
    assert shown(slate) == best[:5]
    assert slate["strategy"] == "ranker"
    assert slate["state"] == {
        "partition": partition_of(b"ada", topics.EVENT_PARTITIONS),
        "offset": shop.newest["ada"][1],
    }
    assert slate["as_of"] == datetime.fromtimestamp(T0_MS / 1000 + 200, UTC).isoformat().replace(
        "+00:00", "Z"
    )
    assert event["event_id"] != bought["event_id"]


async def test_slates_lie_under_their_users_key(shop: Shop) -> None:
    """Compaction keeps the newest slate of each user, and Java consumers find it by key."""
    await shop.slate_after(shop.send(user_id="keyed", item_id="i1"))

    found: list[Message] = read_topic(shop.servers, shop.topic(topics.RECOMMENDATIONS))
    (slate,) = [message for message in found if message.key() == b"keyed"]
    assert slate.partition() == partition_of(b"keyed", topics.EVENT_PARTITIONS)


async def test_a_new_version_is_used_at_once(shop: Shop) -> None:
    """No restart, no failed event: the next slate names the version that made it."""
    before = await shop.slate_after(shop.send(user_id="mover", item_id="i1"))

    version = await asyncio.to_thread(shop.deploy, seed=2)
    await eventually(lambda: f'"version": "{version}"' in shop.worker.output)
    after = await shop.slate_after(shop.send(user_id="mover", item_id="i2"))

    assert before["model"]["version"] != version
    assert (after["model"], after["strategy"]) == ({"name": "ranker", "version": version}, "ranker")


async def test_an_item_made_unavailable_or_deleted_leaves_within_a_second(shop: Shop) -> None:
    """Nobody wants to be shown what cannot be had."""
    first = shown(await shop.slate_after(shop.send(user_id="eve", item_id="i10")))
    sold_out, deleted = first[0], first[1]

    shop.put_item(sold_out, available=False)
    shop.delete_item(deleted)
    shop.flush()
    changed_at = time.time()
    while time.time() < changed_at + 3:
        shop.send(user_id="eve", item_id="i10")
        await asyncio.sleep(0.05)
    await shop.slate_after(shop.send(user_id="eve", item_id="i10"))

    late = [
        slate
        for slate in shop.slates()
        if datetime.fromisoformat(slate["generated_at"]).timestamp() > changed_at + 1
    ]
    assert len(late) > 10
    assert not {sold_out, deleted} & {item for slate in late for item in shown(slate)}
    shop.put_item(sold_out)
    shop.put_item(deleted)
    shop.flush()


async def test_every_worker_sees_the_whole_catalogue(shop: Shop, tmp_path: Path) -> None:
    """items.v1 is broadcast: were it shared out, half of the items would be in no slate."""
    processes = Processes(tmp_path, shop.environment)
    try:
        second = processes("worker", slate_size=40).wait_ready()
        await eventually(lambda: "partitions_revoked" in shop.worker.output)
        for worker in (shop.worker, second):
            assert f'"items": {len(ITEMS)}' in worker.output
        answers = [
            await shop.slate_after(shop.send(user_id=f"two{n}", item_id="i1")) for n in range(16)
        ]
        assert {slate["k"] for slate in answers} == {5, 40}  # both have answered
        assert {len(slate["items"]) for slate in answers} == {5, 40}
    finally:
        processes.end()
    assert second.popen.returncode is not None


def triton_processes(stack: Servers) -> tuple[psutil.Process, list[psutil.Process]]:
    """The server, and the stubs of its models."""
    if stack.up_pid is None:
        pytest.skip("these servers are not ours to kill: unset HEADRACE_TEST_*")
    children = psutil.Process(stack.up_pid).children(recursive=True)
    (server,) = [one for one in children if one.name() == "tritonserver"]
    return server, [one for one in children if "python_backend_stub" in one.name()]


DEGRADED = ("co_visited", "popular")


async def until_strategy(shop: Shop, *strategies: str, timeout_s: float) -> None:
    """Send events until a slate comes of one of *strategies*; every event must have its slate."""
    deadline = time.monotonic() + timeout_s
    while True:
        slate = await shop.slate_after(shop.send(user_id="patient", item_id="i7"))
        assert len(slate["items"]) == 5
        assert (slate["model"] is None) == (slate["strategy"] in DEGRADED)
        if slate["strategy"] in strategies:
            return
        assert time.monotonic() < deadline, f"still {slate['strategy']} after {timeout_s} s"
        await asyncio.sleep(0.2)


@pytest.mark.parametrize("victim", ["server", "stub"])
async def test_triton_killed_degrades_and_heals(shop: Shop, stack: Servers, victim: str) -> None:
    """Slates keep flowing, say that no model took part, and the model comes back by itself."""
    await until_strategy(shop, "ranker", timeout_s=30)
    server, stubs = triton_processes(stack)
    for one in [server] if victim == "server" else stubs:
        one.kill()

    await until_strategy(shop, *DEGRADED, timeout_s=20)
    await until_strategy(shop, "ranker", timeout_s=90)


async def test_each_slate_is_made_again_of_its_trace_and_a_forged_one_is_noticed(
    shop: Shop, tmp_path: Path
) -> None:
    """`headrace verify --slates`, on a system that is at work."""
    slate = await shop.slate_after(shop.send(user_id="traced", item_id="i2"))
    assert slate["strategy"] == "ranker"

    found = verified(shop, tmp_path / "found.json")

    assert found["differences"] == []
    assert 5 < found["counts"]["slates compared"] <= found["counts"]["slates replayed"]

    forged = orjson.dumps({**slate, "k": 6})
    shop.producer.produce(shop.topic(topics.RECOMMENDATIONS), key=b"traced", value=forged)
    shop.flush()

    found = verified(shop, tmp_path / "forged.json", expected=1)

    assert [one["folded"] for one in found["differences"]] == ["the replay"]


def verified(shop: Shop, file: Path, *, expected: int = 0) -> Any:
    """The report of `headrace verify --slates`."""
    command = ["verify", "--slates", "--json", str(file)]
    done = CliRunner().invoke(main, command, env=dict(shop.environment))
    assert done.exit_code == expected, done.output
    return orjson.loads(file.read_bytes())


def test_the_topic_names_are_prefixed(shop: Shop) -> None:
    """A shared cluster must see nothing of ours outside the prefix."""
    found = shop.producer.list_topics(timeout=10).topics
    mine = {name for name in found if name.startswith(shop.prefix)}
    assert mine == {with_prefix(shop.prefix, name) for name in topics.TOPICS}
