"""What `/readyz` of a worker asks: each thing by doing a little of what the worker does with it."""

import asyncio
from collections.abc import Callable
from typing import Any

import numpy as np

from features.store import AsyncRows
from services.errors import CommandFailed
from services.health import Check
from services.kafka.batch_publisher import BatchPublisher
from stream import topics
from stream.deployments import Deployment
from stream.ranking import Ranker, RankerInput, RankerUnavailable

RANKS_WITHIN_S = 1.0
_ONE = np.zeros(1, np.int32)
NOBODY = RankerInput(np.zeros(1, np.int64), _ONE, np.zeros(1, np.float32), _ONE, _ONE)


def worker_checks(
    *,
    assigned: Callable[[], bool],
    store: AsyncRows[Any],
    publish: BatchPublisher,
    ranker: Ranker,
    deployment: Callable[[], Deployment | None],
) -> list[Check]:
    """
    The checks of a worker that has read its catalogue.

    Without its ranker a worker is degraded and still ready: popular items beat none.
    """

    async def partitions() -> str | None:
        return None if assigned() else "no partitions have been assigned, not even none"

    async def redis() -> str | None:
        await store.read([], [0])
        return None

    async def kafka() -> str | None:
        try:
            await asyncio.to_thread(publish.partitions_of, topics.EVENTS)
        except CommandFailed as error:
            return error.message
        return None

    async def ranks() -> str | None:
        state = deployment()
        if state is None:
            return "no version has been deployed"
        try:
            await ranker.rank([NOBODY], version=state.version, deadline_s=RANKS_WITHIN_S)
        except RankerUnavailable as error:
            return f"version {state.version}: {str(error).splitlines()[0]}"
        return None

    return [
        Check("partitions", partitions),
        Check("redis", redis),
        Check("kafka", kafka),
        Check("ranker", ranks, needed=False),
    ]
