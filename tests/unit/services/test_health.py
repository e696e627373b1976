"""``/healthz`` and ``/readyz`` mean what they say."""

import asyncio
import json
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any

import pytest
from prometheus_client import CollectorRegistry, Counter

from services.health import (
    BATCH_SETTLES_WITHIN_S,
    LOOP_TURNS_WITHIN_S,
    Check,
    Health,
    application,
)


class Clock:
    """Turned by hand."""

    def __init__(self) -> None:
        self.now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


def get(health: Health | None, path: str, registry: CollectorRegistry | None = None) -> Any:
    """The status code, and the body: parsed if it is JSON."""
    said: dict[str, str] = {}

    def start_response(status: str, headers: Any, *_: Any) -> Any:
        said.update(dict(headers), status=status)

    pages: Any = application(health, registry or CollectorRegistry())
    body = b"".join(pages({"PATH_INFO": path, "REQUEST_METHOD": "GET"}, start_response)).decode()
    is_json = said["Content-Type"] == "application/json"
    return int(said["status"][:3]), json.loads(body) if is_json else body


async def asked(health: Health, *checks: Check) -> dict[str, bool]:
    """Ask every check once; what was told of them."""
    told: dict[str, bool] = {}
    asking = asyncio.create_task(health.keep_asking(checks, told.__setitem__))
    for _ in range(10):  # turns of the loop: no check here waits for anything
        await asyncio.sleep(0)
    asking.cancel()
    with suppress(asyncio.CancelledError):
        await asking
    return told


def answering(problem: str | None) -> Callable[[], Awaitable[str | None]]:
    async def ask() -> str | None:
        return problem

    return ask


async def broken() -> str | None:
    raise ConnectionRefusedError("ada@example.com")


def test_a_worker_that_is_starting_is_alive_and_not_ready() -> None:
    """Reading a long catalogue is no reason to be killed, nor to be sent traffic."""
    health = Health()

    assert get(health, "/healthz")[0] == 200
    assert get(health, "/readyz") == (
        503,
        {"ready": False, "missing": {"worker": "starting"}, "degraded": {}},
    )


async def test_without_its_ranker_a_worker_is_ready_and_says_that_it_is_degraded() -> None:
    """Popular items beat none; taking the worker away would leave nobody a slate."""
    health = Health()

    told = await asked(
        health,
        Check("redis", answering(None)),
        Check("ranker", answering("late: no answer"), needed=False),
    )

    assert told == {"redis": True, "ranker": False}
    assert get(health, "/readyz") == (
        200,
        {"ready": True, "missing": {}, "degraded": {"ranker": "late: no answer"}},
    )


@pytest.mark.parametrize("ask", [answering("no answer"), broken])
async def test_without_redis_it_is_not_ready(ask: Callable[[], Awaitable[str | None]]) -> None:
    """Nothing can be folded; a check that itself fails counts as a no."""
    health = Health()

    await asked(health, Check("redis", ask))

    code, said = get(health, "/readyz")
    assert code == 503
    assert list(said["missing"]) == ["redis"]
    assert "ada" not in str(said)
    assert get(health, "/healthz")[0] == 200  # killing it would mend nothing


async def test_a_loop_that_stands_still_is_not_alive() -> None:
    """The process is there, its port answers, and no event moves."""
    clock = Clock()
    health = Health(clock=clock)
    await asked(health)
    health.beat()

    clock.now_s += LOOP_TURNS_WITHIN_S + 1

    assert get(health, "/healthz")[0] == 503
    assert get(health, "/readyz")[0] == 503
    health.beat()
    assert get(health, "/healthz")[0] == 200


async def test_a_batch_that_never_ends_is_not_alive() -> None:
    """The loop turns, waiting for something that will not come."""
    clock = Clock()
    health = Health(clock=clock)
    release = asyncio.Event()

    async def handle(batch: int) -> int:
        await release.wait()
        return batch

    handling = asyncio.create_task(health.watching(handle)(7))
    await asyncio.sleep(0)
    clock.now_s += BATCH_SETTLES_WITHIN_S + 1
    health.beat()

    assert "micro-batch" in get(health, "/healthz")[1]["why"]
    release.set()
    assert await handling == 7
    assert get(health, "/healthz")[0] == 200


def test_metrics_are_beside_them_and_nothing_else_is() -> None:
    """One port for whoever watches; a guess is answered with what there is."""
    registry = CollectorRegistry()
    Counter("headrace_events", "Events.", registry=registry).inc(3)

    assert "headrace_events_total 3.0" in get(None, "/metrics", registry)[1]
    assert get(None, "/healthz")[0] == 200
    assert get(None, "/readyz")[0] == 404
    assert get(None, "/")[0] == 404
