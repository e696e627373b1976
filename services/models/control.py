"""Triton's models from outside: load and unload them, and ask one for proof."""

import time
from collections.abc import Mapping
from typing import Any

import tritonclient.grpc.aio as triton
from numpy.typing import NDArray
from tritonclient.utils import InferenceServerException

from services.models.config import as_json
from services.models.triton import connect, infer, read_contract, unavailable
from stream.ranking import Ranked


async def load(address: str, model: str, *, config: str | None = None, timeout_s: float) -> None:
    """
    Load *model*, or load it again: the way to heal a dead stub. Requests go on being answered.

    Triton keeps what has not changed, dead stubs included, so what is loaded already gets a
    configuration that differs from the last one.

    Args:
        config: A JSON model configuration to use in place of the repository's. Versions in it that
            are loaded already, with the same files and otherwise the same configuration, are left
            alone: their processes go on.

    Raises:
        RankerUnavailable: If Triton cannot, with its reason. What was loaded goes on serving.
    """
    async with connect(address) as client:
        try:
            if config is None:
                config = await _marked_config(client, model, timeout_s)
            await client.load_model(model, config=config, client_timeout=timeout_s)
        except InferenceServerException as error:
            raise unavailable(error) from error


async def unload(address: str, model: str, *, timeout_s: float) -> None:
    """Stop serving *model*, every version of it. Raises `RankerUnavailable`."""
    async with connect(address) as client:
        try:
            await client.unload_model(model, client_timeout=timeout_s)
        except InferenceServerException as error:
            raise unavailable(error) from error


async def _marked_config(
    client: triton.InferenceServerClient, model: str, timeout_s: float
) -> str | None:
    index = await client.get_model_repository_index(client_timeout=timeout_s)
    if not any(one.name == model and one.state == "READY" for one in index.models):
        return None  # the repository's own
    answer = await client.get_model_config(model, client_timeout=timeout_s)
    answer.config.parameters["loaded_again_at_ns"].string_value = str(time.time_ns())
    return as_json(answer.config)


async def ready_versions(address: str, model: str, *, timeout_s: float = 5.0) -> tuple[str, ...]:
    """The versions of *model* that Triton calls ready. Raises `RankerUnavailable`."""
    async with connect(address) as client:
        try:
            index = await client.get_model_repository_index(client_timeout=timeout_s)
        except InferenceServerException as error:
            raise unavailable(error) from error
    ready = [one.version for one in index.models if one.name == model and one.state == "READY"]
    return tuple(sorted(ready, key=int))


async def is_alive(address: str, *, timeout_s: float = 1.0) -> bool:
    """Whether the server process answers. Says nothing about models: probe those."""
    async with connect(address) as client:
        try:
            return bool(await client.is_server_live(client_timeout=timeout_s))
        except InferenceServerException:
            return False


async def answers(
    address: str,
    model: str,
    version: str,
    tensors: Mapping[str, NDArray[Any]],
    *,
    timeout_s: float,
) -> Ranked:
    """Ask *version* once, for a probe: readiness lies. Raises `RankerUnavailable`."""
    asked = timed_answers(address, model, version, tensors, times=1, timeout_s=timeout_s)
    return (await asked)[0][0]


async def timed_answers(
    address: str,
    model: str,
    version: str,
    tensors: Mapping[str, NDArray[Any]],
    *,
    times: int,
    timeout_s: float,
) -> list[tuple[Ranked, float]]:
    """Ask *version* one time after the other; the answers, and how many seconds each took."""
    answered = []
    async with connect(address) as client:
        contract = await read_contract(client, model, version, timeout_s)
        for _ in range(times):
            began_s = time.perf_counter()
            answer = await infer(client, model, version, contract, tensors, timeout_s)
            answered.append((answer, time.perf_counter() - began_s))
    return answered
