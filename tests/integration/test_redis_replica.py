"""The next Redis: a replica that takes the primary's place and name when it dies."""

import asyncio
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from redis import Redis
from redis.exceptions import ConnectionError as NotThere

from tests.integration.ledger import Ledger, load, settled_under_care
from tests.integration.own_redis import OwnRedis
from tests.integration.support import Processes, eventually

EVENTS, RATE = 3000, 400.0


@pytest.fixture
def primary(tmp_path: Path) -> Iterator[OwnRedis]:
    redis = OwnRedis(tmp_path / "primary")
    yield redis
    redis.kill()


@pytest.fixture
def replica(tmp_path: Path, primary: OwnRedis) -> Iterator[OwnRedis]:
    redis = OwnRedis(tmp_path / "replica", "--replicaof", "127.0.0.1", str(primary.port))
    yield redis
    redis.kill()


async def test_a_failover_loses_nothing_and_counts_nothing_twice(
    environment: dict[str, str], process: Processes, primary: OwnRedis, replica: OwnRedis
) -> None:
    """Replication is asynchronous: the replica may lack what the primary has acknowledged."""
    address = f"127.0.0.1:{primary.port}"
    ledger = Ledger({**environment, "HEADRACE_REDIS_ADDRESS": address})
    promoted = Redis("127.0.0.1", replica.port)
    await eventually(lambda: linked(promoted))
    start = partial(process, "worker", redis_address=address)
    worker = start().wait_ready()
    with load(ledger, events=EVENTS, rate=RATE):
        await eventually(lambda: sum(ledger.counters().values()) > EVENTS / 3)
        primary.kill()
        promoted.replicaof("NO", "ONE")
        promoted.config_set("port", primary.port)  # as a name does that follows the primary

    await settled_under_care(ledger, worker, start)
    await asyncio.sleep(1)  # the last slates

    ledger.assert_exact()


def linked(redis: Redis) -> Any:
    """Whether it follows its primary."""
    try:
        said: Any = redis.info("replication")
    except NotThere as error:
        raise AssertionError(str(error)) from error
    return said.get("master_link_status") == "up"
