"""Asking Triton about items that the ranker has never seen: `services.worker.newcomers.Towers`."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from services.models.companions import TEXT_ENCODER
from services.models.triton import Client, call, connect
from services.models.versions import COMPANION

TIMEOUT_S = 10.0  # it is in no hurry, and a busy machine reads texts slowly


class TritonTowers:
    """MiniLM and the versions' item towers on a Triton server."""

    def __init__(self, address: str, *, timeout_s: float = TIMEOUT_S) -> None:
        self._address = address
        self._timeout_s = timeout_s
        self._client: Client | None = None

    async def knows(self, version: str, keys: NDArray[np.int64]) -> NDArray[np.bool_]:
        """``(N,)``: which items *version* was trained with. Raises `RankerUnavailable`."""
        tensors = {"item_key": keys[:, None]}
        found = await call(
            self._connected(), COMPANION, tensors, ("is_known",), self._timeout_s, version=version
        )
        return found["is_known"][:, 0]

    async def read(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Text vectors ``(N, 384)``. Raises `RankerUnavailable`."""
        tensors: dict[str, NDArray[Any]] = {
            "text": np.array([[text.encode()] for text in texts], np.object_)
        }
        found = await call(
            self._connected(), TEXT_ENCODER, tensors, ("text_vector",), self._timeout_s
        )
        return found["text_vector"]

    async def vectors(
        self, version: str, keys: NDArray[np.int64], texts: NDArray[np.float32]
    ) -> NDArray[np.float32]:
        """Item vectors ``(N, D)`` of text vectors ``(N, 384)``. Raises `RankerUnavailable`."""
        tensors: dict[str, NDArray[Any]] = {"item_key": keys[:, None], "text_vector": texts}
        found = await call(
            self._connected(),
            COMPANION,
            tensors,
            ("item_vector",),
            self._timeout_s,
            version=version,
        )
        return found["item_vector"]

    async def close(self) -> None:
        """Give the connection back."""
        if self._client is not None:
            await self._client.close()
            self._client = None

    def _connected(self) -> Client:
        # Made at the first call, because a channel belongs to the event loop it is made in.
        if self._client is None:
            self._client = connect(self._address)
        return self._client
