"""When a version is left alone, and when it is asked again."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from services.models.circuit import Circuit
from stream.ranking import RankerUnavailable


class Triton:
    """One version of a model, which answers or does not."""

    def __init__(self) -> None:
        self.failure: str | None = None
        self.asked = 0
        self.probed = asyncio.Event()

    async def ask(self) -> str:
        """Answer, or fail as it was told to."""
        self.asked += 1
        if self.failure:
            raise RankerUnavailable(self.failure)
        return "slates"

    async def probe(self) -> None:
        """The circuit's own question."""
        try:
            await self.ask()
        finally:
            self.probed.set()


@pytest.fixture
async def triton() -> Triton:
    return Triton()


@pytest.fixture
async def heard() -> asyncio.Queue[bool]:
    return asyncio.Queue()


@pytest.fixture
async def circuit(triton: Triton, heard: asyncio.Queue[bool]) -> AsyncIterator[Circuit]:
    circuit = Circuit(triton.probe, heard.put_nowait)
    yield circuit
    circuit.close()


@pytest.mark.parametrize("failure", ["late: no answer within 500 ms", "down: failed to connect"])
async def test_who_does_not_answer_is_asked_by_the_probe_alone(
    triton: Triton, circuit: Circuit, heard: asyncio.Queue[bool], failure: str
):
    """A hung server must not cost every micro-batch its whole deadline."""
    triton.failure = failure
    with pytest.raises(RankerUnavailable):
        await circuit.call(triton.ask)
    asked = triton.asked

    for _ in range(3):
        with pytest.raises(RankerUnavailable, match="not asked before a probe") as refused:
            await circuit.call(triton.ask)

    assert triton.asked == asked
    assert refused.value.kind == failure.partition(":")[0]  # the metric counts by it


async def test_it_is_asked_again_once_a_probe_has_had_an_answer(
    triton: Triton, circuit: Circuit, heard: asyncio.Queue[bool]
):
    """Nobody restarts a worker because Triton was restarted."""
    triton.failure = "late: no answer within 500 ms"
    with pytest.raises(RankerUnavailable):
        await circuit.call(triton.ask)
    for _ in range(2):  # it goes on probing, however often it fails
        triton.probed.clear()
        await asyncio.wait_for(triton.probed.wait(), 10)
    triton.failure = None

    async with asyncio.timeout(10):
        assert [await heard.get(), await heard.get()] == [True, False]

    assert await circuit.call(triton.ask) == "slates"


@pytest.mark.parametrize("failure", ["refused: unknown version", "malformed: scores not finite"])
async def test_a_wrong_answer_leaves_it_closed(
    triton: Triton, circuit: Circuit, heard: asyncio.Queue[bool], failure: str
):
    """It comes at once, so there is nothing to wait for; the canary's guard wants to count it."""
    triton.failure = failure

    for _ in range(3):
        with pytest.raises(RankerUnavailable, match=failure):
            await circuit.call(triton.ask)

    assert triton.asked == 3
    assert heard.empty()


async def test_a_probe_that_is_refused_closes_it(
    triton: Triton, circuit: Circuit, heard: asyncio.Queue[bool]
):
    """The version may have been unloaded meanwhile: that is an answer."""
    triton.failure = "down: failed to connect"
    with pytest.raises(RankerUnavailable):
        await circuit.call(triton.ask)
    triton.failure = "refused: unknown version"

    async with asyncio.timeout(10):
        assert [await heard.get(), await heard.get()] == [True, False]

    with pytest.raises(RankerUnavailable, match="refused"):
        await circuit.call(triton.ask)
