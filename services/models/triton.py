"""
Asking the ranker on Triton. Loading and proving its versions is `services.models.control`.

Messages of `RankerUnavailable` start with one of four reasons, fit for a metric's label:
``late``, ``down`` (no connection), ``refused`` (Triton says no) and ``malformed``.
"""

import asyncio
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeAlias

import numpy as np
import tritonclient.grpc.aio as triton
from numpy.typing import NDArray
from tritonclient.utils import InferenceServerException, np_to_triton_dtype

from services.models.circuit import Circuit
from services.models.pace import Pace
from stream.ranking import Ranked, RankerInput, RankerInputs, RankerUnavailable

DTYPES: Mapping[str, tuple[str, type[np.generic]]] = {
    "item_keys": ("INT64", np.int64),
    "event_types": ("INT32", np.int32),
    "ages_s": ("FP32", np.float32),
    "price_buckets": ("INT32", np.int32),
    "context": ("INT32", np.int32),
}
OUTPUTS = ("item_keys", "scores", "user_vector")
Client: TypeAlias = triton.InferenceServerClient
# gRPC's own back-off grows to two minutes: Triton would be back long before its clients are.
# "min" is gRPC's name for how long it waits for an attempt to connect, not between two. A busy
# Triton takes more than 100 ms to accept one, and a vanished host is asked anew within 5 s.
CHANNEL = [
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 2_000),
    ("grpc.max_reconnect_backoff_ms", 500),
    ("grpc.max_send_message_length", -1),
    ("grpc.max_receive_message_length", -1),
]
PROBE_TIMEOUT_S = 1.0


@dataclass(frozen=True, slots=True)
class Contract:
    """What one loaded version expects and promises, read from Triton itself."""

    inputs: tuple[str, ...]
    outputs: tuple[str, ...]  # of those that a worker reads
    history_length: int
    k: int
    max_batch: int


def connect(address: str) -> Client:
    """A client of the Triton at *address* (gRPC host:port). Call it inside the event loop."""
    return Client(address, channel_args=CHANNEL)


class TritonRanker:
    """`stream.ranking.Ranker` on a Triton server: a request for a micro-batch, or a few."""

    def __init__(
        self,
        address: str,
        *,
        model_name: str = "ranker",
        circuit_opened: Callable[[str, bool], None] = lambda version, is_open: None,
    ) -> None:
        """*circuit_opened* hears when a version is no longer asked, and when it is again."""
        self._address = address
        self._model = model_name
        self._circuit_opened = circuit_opened
        self._client: Client | None = None
        self._contracts: dict[str, Contract] = {}
        self._circuits: dict[str, Circuit] = {}  # by version
        self._paces: dict[str, Pace] = defaultdict(Pace)

    async def rank(
        self, inputs: Sequence[RankerInput], *, version: str, deadline_s: float
    ) -> Ranked:
        """
        Rank the whole catalogue of *version* for each user.

        Raises:
            RankerUnavailable: If the answer is late, missing or malformed; at once while the
                version's `Circuit` is open.
        """
        known = self._contracts.get(version)
        try:
            return await self._rank_in_parts(inputs, version, deadline_s)
        except RankerUnavailable as error:
            # Triton has one contract for all versions of a model: another kind of version that
            # was loaded beside this one may have changed it.
            if known is None or error.kind != "refused":
                raise
            if await self._contract(version, deadline_s) == known:
                raise
            return await self._rank_in_parts(inputs, version, deadline_s)

    async def _rank_in_parts(
        self, inputs: Sequence[RankerInput], version: str, deadline_s: float
    ) -> Ranked:
        contract = await self._contract(version, deadline_s)

        async def ask(some: Sequence[RankerInput]) -> Ranked:
            # Each request, and not the batch: one that waits for its turn meets an open circuit.
            rank = partial(self._rank, some, version, contract, deadline_s)
            return await self._circuit(version).call(rank)

        pace = self._paces[version]
        return _joined(
            await pace.asked(ask, inputs, most=contract.max_batch, deadline_s=deadline_s)
        )

    async def _rank(
        self, inputs: Sequence[RankerInput], version: str, contract: Contract, deadline_s: float
    ) -> Ranked:
        tensors = pad(inputs, contract.history_length)
        try:
            async with asyncio.timeout(deadline_s):
                return await infer(
                    self._connected(), self._model, version, contract, tensors, deadline_s
                )
        except (RankerUnavailable, TimeoutError) as error:
            self._contracts.pop(version, None)  # it may be another's: read again before the next
            if isinstance(error, RankerUnavailable):
                raise
            raise RankerUnavailable(f"late: no answer within {deadline_s * 1000:.0f} ms") from None

    async def _contract(self, version: str, deadline_s: float) -> Contract:
        return await self._circuit(version).call(
            partial(self.contract, version, deadline_s=deadline_s)
        )

    def _circuit(self, version: str) -> Circuit:
        if version not in self._circuits:
            opened = partial(self._circuit_opened, version)
            self._circuits[version] = Circuit(partial(self._probe, version), opened)
        return self._circuits[version]

    async def contract(self, version: str, *, deadline_s: float) -> Contract:
        """What *version* expects and promises; asked once. Raises `RankerUnavailable`."""
        if version not in self._contracts:
            client = self._connected()
            self._contracts[version] = await read_contract(client, self._model, version, deadline_s)
        return self._contracts[version]

    async def close(self) -> None:
        """Give the connection back."""
        for circuit in self._circuits.values():
            circuit.close()
        if self._client is not None:
            await self._client.close()
            self._client = None

    def _connected(self) -> Client:
        # Made at the first call, because a channel belongs to the event loop it is made in.
        if self._client is None:
            self._client = connect(self._address)
        return self._client

    async def _probe(self, version: str) -> None:
        contract = await self.contract(version, deadline_s=PROBE_TIMEOUT_S)
        nobody = {name: np.zeros((1, 1), dtype) for name, (_, dtype) in DTYPES.items()}
        await infer(self._connected(), self._model, version, contract, nobody, PROBE_TIMEOUT_S)


def pad(inputs: Sequence[RankerInput], length: int) -> dict[str, NDArray[Any]]:
    """The ``(B, length)`` input tensors: the newest last, padded with 0 on the left."""
    newest = RankerInputs.of(inputs).newest(length)
    real = np.arange(length) >= length - newest.lengths[:, None]  # (B, length)
    padded = {name: np.zeros(real.shape, dtype) for name, (_, dtype) in DTYPES.items()}
    for name, rows in padded.items():
        rows[real] = getattr(newest.together, name)
    return padded


async def infer(
    client: Client,
    model: str,
    version: str,
    contract: Contract,
    tensors: Mapping[str, NDArray[Any]],
    timeout_s: float,
) -> Ranked:
    """
    One request, its answer checked in every dimension.

    Args:
        tensors: ``(B, L)`` each, named as in the contract, B at most ``contract.max_batch``.

    Raises:
        RankerUnavailable: If the answer is late, missing or malformed.
    """
    # What is not among the tensors is optional, or Triton says so.
    sent = {name: tensors[name] for name in contract.inputs if name in tensors}
    answer = await call(client, model, sent, contract.outputs, timeout_s, version=version)
    return _checked(answer, len(tensors["item_keys"]))


async def call(
    client: Client,
    model: str,
    tensors: Mapping[str, NDArray[Any]],
    outputs: Sequence[str],
    timeout_s: float,
    *,
    version: str = "",
) -> dict[str, NDArray[Any]]:
    """
    One request to any model: the *outputs* by name, unchecked.

    Args:
        tensors: The inputs by name; text is an array of objects.
        version: The newest unless given.

    Raises:
        RankerUnavailable: If the answer is late or missing.
    """
    sent = []
    for name, values in tensors.items():
        tensor = triton.InferInput(name, values.shape, np_to_triton_dtype(values.dtype))
        sent.append(tensor.set_data_from_numpy(values))
    requested = [triton.InferRequestedOutput(name) for name in outputs]
    try:
        answer = await client.infer(
            model, sent, model_version=version, outputs=requested, client_timeout=timeout_s
        )
        found = {name: answer.as_numpy(name) for name in outputs}
    except InferenceServerException as error:
        raise unavailable(error) from error
    except ValueError as error:
        # A stub that sees numpy 2 answers with empty tensors under the right shape.
        raise RankerUnavailable(f"malformed: {error}") from error
    if missing := [name for name, values in found.items() if values is None]:
        raise RankerUnavailable(f"malformed: the output {missing[0]} is missing")
    return found


def _joined(parts: Sequence[Ranked]) -> Ranked:
    if len(parts) == 1:
        return parts[0]
    vectors = [part.user_vectors for part in parts if part.user_vectors is not None]
    return Ranked(
        np.concatenate([part.item_keys for part in parts]),
        np.concatenate([part.scores for part in parts]),
        np.concatenate(vectors) if vectors else None,
    )


def _checked(answer: Mapping[str, NDArray[Any]], rows: int) -> Ranked:
    keys, scores, vectors = answer["item_keys"], answer["scores"], answer.get("user_vector")
    if keys.shape != scores.shape or keys.ndim != 2 or len(keys) != rows or keys.size == 0:
        raise RankerUnavailable(f"malformed: {keys.shape} keys, {scores.shape} scores, {rows} rows")
    if keys.dtype != np.int64 or not np.isfinite(scores).all():
        raise RankerUnavailable("malformed: item_keys are not int64 or scores not finite")
    if vectors is not None and (len(vectors) != rows or not np.isfinite(vectors).all()):
        raise RankerUnavailable("malformed: user_vector is not one finite vector a row")
    return Ranked(keys, scores, vectors)


def unavailable(error: InferenceServerException) -> RankerUnavailable:
    """What a client's error means for whoever wants a slate."""
    reason = {
        "StatusCode.DEADLINE_EXCEEDED": "late",
        "StatusCode.CANCELLED": "late",
    }.get(error.status() or "", "refused")
    message = error.message() or "no reason given"
    if "failed to connect" in message or "Connection" in message or "Socket closed" in message:
        reason = "down"
    return RankerUnavailable(f"{reason}: {message}")


async def read_contract(client: Client, model: str, version: str, timeout_s: float) -> Contract:
    """What the loaded *version* expects and promises. Raises `RankerUnavailable`."""
    try:
        answer = await client.get_model_config(model, version, client_timeout=timeout_s)
    except InferenceServerException as error:
        raise unavailable(error) from error
    config = answer.config
    required = {tensor.name for tensor in config.input if not tensor.optional}
    if unknown := sorted(required - set(DTYPES)):
        raise RankerUnavailable(f"malformed: it requires inputs that are not sent: {unknown}")
    outputs = {tensor.name: tuple(tensor.dims) for tensor in config.output}
    if not {"item_keys", "scores"} <= outputs.keys():
        raise RankerUnavailable(f"malformed: it promises only {sorted(outputs)}")
    return Contract(
        inputs=tuple(tensor.name for tensor in config.input if tensor.name in DTYPES),
        outputs=tuple(name for name in OUTPUTS if name in outputs),
        history_length=int(config.parameters["history_length"].string_value or 50),
        k=outputs["item_keys"][0],
        max_batch=max(1, config.max_batch_size),
    )
