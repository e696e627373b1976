"""Redis' old log, once the new one is written, is freed in steps."""

import asyncio
import os
from itertools import pairwise
from pathlib import Path

import pytest
import redis.asyncio

from services.embedded import install
from services.embedded.old_logs import STEP_BYTES, free_little_by_little
from services.embedded.redis import redis as redis_part
from services.settings import Settings
from tests.integration.support import Supervise, free_port

STEPS = 6


@pytest.mark.usefixtures("installed")
async def test_a_log_that_redis_deletes_is_freed_in_steps(
    supervise: Supervise, tmp_path: Path
) -> None:
    """At once it would keep the syncs of the new log waiting."""
    port = free_port()
    installation = install.locate(Settings().cache_dir)
    async with supervise(redis_part(installation, tmp_path / "redis", port=port)) as running:
        await running.all_ready()
        (path,) = (tmp_path / "redis" / "appendonlydir").glob("*.incr.aof")
        async with redis.asyncio.Redis(port=port) as client:
            for _ in range(STEPS * STEP_BYTES >> 20):
                await client.set("key", bytes(1 << 20))
            await asyncio.sleep(1.5)  # it has been seen
            with path.open("rb") as old:
                await client.bgrewriteaof()
                sizes = [os.fstat(old.fileno()).st_size]
                async with asyncio.timeout(30):
                    while sizes[-1] > STEP_BYTES:
                        await asyncio.sleep(0.001)
                        sizes.append(os.fstat(old.fileno()).st_size)
            assert sizes[0] > STEPS * STEP_BYTES
            assert max(before - after for before, after in pairwise(sizes)) == STEP_BYTES
            assert not path.exists()
            assert len(await client.get("key")) == 1 << 20


async def test_a_log_that_has_a_name_is_left_alone(tmp_path: Path) -> None:
    """A name elsewhere too: whoever backs Redis up by linking its files has them whole."""
    (tmp_path / "redis").mkdir()
    log = tmp_path / "redis" / "1.aof"
    log.write_bytes(bytes(2 * STEP_BYTES))
    freeing = asyncio.create_task(free_little_by_little(tmp_path / "redis"))
    await asyncio.sleep(0.1)
    kept = log.rename(tmp_path / "kept.aof")
    log.write_bytes(b"the next one has its name")
    await asyncio.sleep(1.5)
    freeing.cancel()

    assert kept.stat().st_size == 2 * STEP_BYTES
    assert log.read_bytes() == b"the next one has its name"
