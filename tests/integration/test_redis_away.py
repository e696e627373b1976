"""A Redis that is restarted, stays away or pauses, and calls that nobody waits for any more."""

import asyncio
import os
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from redis import Redis

from features.store import AsyncRows, FeatureRows, StoreError
from stream.state import Replacement, StateMoved
from tests.builders import new
from tests.chaos.stack import paused
from tests.integration.own_redis import OwnRedis


@pytest.fixture
def redis(tmp_path: Path) -> Iterator[OwnRedis]:
    redis = OwnRedis(tmp_path)
    yield redis
    redis.kill()


def test_a_redis_that_is_restarted_is_waited_for(redis: OwnRedis, tmp_path: Path) -> None:
    """A restart of Redis must not restart every worker."""
    rows = FeatureRows.open(f"127.0.0.1:{redis.port}", tmp_path / "r" / "registry.db", "p")
    rows.write_rows({"ada": new(b"row")})
    redis.kill()
    redis.start()

    assert rows.read(["ada"]) == [b"row"]


def test_a_redis_that_stays_away_is_an_error_within_seconds(
    redis: OwnRedis, tmp_path: Path
) -> None:
    """Then the worker stops, and acknowledges nothing."""
    rows = FeatureRows.open(f"127.0.0.1:{redis.port}", tmp_path / "r" / "registry.db", "p")
    redis.kill()
    began_s = time.monotonic()

    with pytest.raises(StoreError):
        rows.write_rows({"ada": new(b"row")})

    assert time.monotonic() - began_s < 15


@pytest.fixture
async def own(
    redis: OwnRedis, tmp_path: Path, request: pytest.FixtureRequest
) -> AsyncIterator[AsyncRows[str]]:
    """Rows in the Redis of this test alone; its parameter is more of the connection string."""
    address = f"127.0.0.1:{redis.port}{getattr(request, 'param', '')}"
    rows = FeatureRows.open(address, tmp_path / "r" / "registry.db", "p")
    own = AsyncRows(rows)
    await own.write_rows({"ada": new(b"ada's"), "bob": new(b"bob's")}, {})
    yield own
    await own.aclose()
    rows.close()


def newer(value: bytes) -> Replacement:
    """In place of a `new` one."""
    return Replacement(value, expected=new(b"").applied, applied="0:8")


async def test_the_event_loop_waits_for_a_redis_that_is_restarted(
    redis: OwnRedis, own: AsyncRows[str]
) -> None:
    """With what was acknowledged, and without the scripts that it knew."""
    redis.kill()
    reading = asyncio.create_task(own.read(["ada"], []))
    writing = asyncio.create_task(own.write_rows({"eve": new(b"eve's")}, {}))
    await asyncio.sleep(0.3)
    assert not reading.done() and not writing.done()
    redis.start()

    assert await reading == ([b"ada's"], [])
    await writing
    assert await own.read(["eve"], []) == ([b"eve's"], [])


async def test_the_event_loop_gives_up_on_a_redis_that_stays_away(
    redis: OwnRedis, own: AsyncRows[str]
) -> None:
    """As the blocking calls do."""
    redis.kill()
    began_s = time.monotonic()

    with pytest.raises(StoreError):
        await own.write_rows({"eve": new(b"eve's")}, {})

    assert 1 < time.monotonic() - began_s < 15


async def test_no_write_stands_on_one_that_redis_has_lost(
    redis: OwnRedis, own: AsyncRows[str]
) -> None:
    """Acknowledged, and gone when Redis is back, as with a replica that takes over."""
    earlier_bytes = redis.log.stat().st_size
    written = await own.write_rows({"ada": newer(b"newer")}, {})
    redis.kill()
    os.truncate(redis.log, earlier_bytes)
    redis.start()

    for write in (
        own.write_marks({0: new(b"mark")}, written),
        own.write_rows({"eve": new(b"eve's")}, {}, written),
    ):
        with pytest.raises(StateMoved, match='"0:7", not "0:8"'):
            await write
    assert await own.read(["ada", "eve"], [0]) == ([b"ada's", None], [None])
    written = await own.write_rows({"ada": newer(b"newer")}, {})
    await own.write_marks({0: new(b"mark")}, written)
    assert await own.read(["ada"], [0]) == ([b"newer"], [b"mark"])


async def test_redis_loses_what_follows_a_torn_transaction(
    redis: OwnRedis, own: AsyncRows[str]
) -> None:
    """
    Why it is looked after at all, with ``appendfsync always``: see docs/reliability.md.

    This is a fault of Redis, which Valkey has mended (its pull request 4342): fails when this
    Redis has.
    """
    await own.write_rows({"eve": new(b"eve's"), "fay": new(b"fay's")}, {})
    redis.kill()
    os.truncate(redis.log, redis.log.stat().st_size - 1)  # as if killed while it wrote
    redis.start()
    written = await own.write_rows({"ada": newer(b"newer")}, {})
    assert await own.read(["ada", "eve"], []) == ([b"newer", None], [])
    redis.kill()
    redis.start()

    assert await own.read(["ada", "eve"], []) == ([b"ada's", None], [])
    with pytest.raises(StateMoved):
        await own.write_marks({0: new(b"mark")}, written)


@pytest.mark.parametrize("own", [",socket_timeout=0.2"], indirect=True)
async def test_a_redis_that_pauses_for_longer_than_a_call_may_take_is_asked_again(
    redis: OwnRedis, own: AsyncRows[str]
) -> None:
    """The call that nobody waits for any more is executed too, and its repeat is content."""
    with paused(redis.popen.pid):
        writing = asyncio.create_task(own.write_rows({"eve": new(b"eve's")}, {}))
        await asyncio.sleep(1)
        assert not writing.done()

    await writing
    assert await own.read(["eve", "ada"], []) == ([b"eve's", b"ada's"], [])


async def test_connections_are_used_again(redis: OwnRedis, own: AsyncRows[str]) -> None:
    """To connect takes longer than to ask; as many are kept as were wanted at once."""

    async def ask_thrice_at_once() -> None:
        await asyncio.gather(*(own.read(["ada"], []) for _ in range(3)))

    await ask_thrice_at_once()
    with Redis(port=redis.port) as watching:
        made = watching.info("stats")["total_connections_received"]
        for _ in range(5):
            await own.read(["ada"], [])
            await ask_thrice_at_once()

        assert watching.info("stats")["total_connections_received"] == made


async def test_a_call_that_is_cancelled_leaves_its_answer_to_nobody(
    redis: OwnRedis, own: AsyncRows[str]
) -> None:
    """The readiness check gives up after some seconds; the next call must not read its answer."""
    with paused(redis.popen.pid):
        reading = asyncio.create_task(own.read(["ada"], []))
        await asyncio.sleep(0.1)
        reading.cancel()
        with pytest.raises(asyncio.CancelledError):
            await reading
        following = asyncio.create_task(own.read(["bob"], []))
        await asyncio.sleep(0.1)

    assert await following == ([b"bob's"], [])
    for delay_s in [n * 2e-5 for n in range(100)]:  # at every point of a call
        with suppress(TimeoutError):
            async with asyncio.timeout(delay_s):
                assert await own.read(["ada"], []) == ([b"ada's"], [])
        assert await own.read(["bob"], []) == ([b"bob's"], [])


async def test_a_write_that_is_cut_short_is_not_continued(
    redis: OwnRedis, own: AsyncRows[str]
) -> None:
    """
    Half a command lies in the connection: what follows there would be taken for its rest.

    Nor does the rest follow when nobody waits for it any more, and rows have been read since.
    """
    with paused(redis.popen.pid):
        large = {f"u{n}": new(bytes(4 << 20)) for n in range(8)}
        writing = asyncio.create_task(own.write_rows(large, {}))
        await asyncio.sleep(0.3)
        writing.cancel()
        with pytest.raises(asyncio.CancelledError):
            await writing

    for delay_s in (0, 1):
        await asyncio.sleep(delay_s)
        async with asyncio.timeout(3):
            rows, marks = await own.read([*large, "ada"], [])
        assert [row and row[:9] for row in rows] == [None] * 8 + [b"ada's"]
        assert marks == []
