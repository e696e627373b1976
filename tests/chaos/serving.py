"""Since when Triton answers, as a client of its own sees it: what a worker can be measured by."""

import asyncio
import time

from services.models.triton import Client, connect, infer, pad, read_contract
from services.worker.checks import NOBODY
from stream.ranking import RankerUnavailable
from tests.chaos.background import Background

ASK_EVERY_S = 0.1
TIMEOUT_S = 1.0


class Serving(Background):
    """
    Asks Triton to rank for nobody, again and again, in a thread.

    Args:
        address: gRPC, ``host:port``.
        model, version: Whom to ask.
    """

    def __init__(self, address: str, model: str, version: str) -> None:
        super().__init__("serving")
        self._address, self._model, self._version = address, model, version
        self._returns_s: list[float] = []  # monotonic: first answers after none

    def returned_s(self, until_s: float) -> float:
        """When Triton last began to answer, of what was before *until_s*; 0 if it has not."""
        return max((at_s for at_s in list(self._returns_s) if at_s <= until_s), default=0.0)

    def _run(self) -> None:
        asyncio.run(self._watch())

    async def _watch(self) -> None:
        answers = False
        async with connect(self._address) as client:
            while not self._stop.is_set():
                answered = await self._answers(client)
                if answered and not answers:
                    self._returns_s.append(time.monotonic())
                answers = answered
                await asyncio.sleep(ASK_EVERY_S)

    async def _answers(self, client: Client) -> bool:
        asked = client, self._model, self._version
        try:
            contract = await read_contract(*asked, TIMEOUT_S)
            await infer(*asked, contract, pad([NOBODY], 1), TIMEOUT_S)
        except RankerUnavailable:
            return False
        return True
