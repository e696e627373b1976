"""Triton's models from outside: load and unload them, and ask one for proof."""

import time
from collections.abc import Collection, Mapping
from typing import Any

import tritonclient.grpc.aio as triton
from numpy.typing import NDArray
from tritonclient.utils import InferenceServerException

from services.models.config import Config, as_json
from services.models.triton import connect, infer, read_contract, unavailable
from stream.ranking import Ranked

MARK = "loaded_again_at_ns"  # the ranker loads at full priority when it is new: its `model.py`


async def load(address: str, model: str, *, config: Config | None = None, timeout_s: float) -> None:
    """
    Load *model*, or load all of it again. Requests go on being answered.

    Triton keeps what has not changed, dead stubs included. So what is to be loaded again gets a
    configuration that is marked with the time, and keeps the mark from then on.

    Args:
        config: To use in place of the repository's. Versions in it that are loaded already, with
            the same files and otherwise the same configuration, are left alone: their processes
            go on.

    Raises:
        RankerUnavailable: If Triton cannot, with its reason. What was loaded goes on serving.
    """
    async with connect(address) as client:
        try:
            running = await _running_config(client, model, timeout_s)
            if config is None and running is not None:
                config = running
                config.parameters[MARK].string_value = str(time.time_ns())
            elif config is not None and running is not None and MARK in running.parameters:
                config.parameters[MARK].CopyFrom(running.parameters[MARK])
            wanted = None if config is None else as_json(config)  # None: the repository's own
            await client.load_model(model, config=wanted, client_timeout=timeout_s)
        except InferenceServerException as error:
            raise unavailable(error) from error


async def restart(address: str, model: str, versions: Collection[str], *, timeout_s: float) -> None:
    """
    Start *versions* of *model* anew, the way to heal dead stubs. The others' processes go on.

    Raises:
        RankerUnavailable: If Triton cannot, with its reason.
    """
    async with connect(address) as client:
        try:
            config = (await client.get_model_config(model, client_timeout=timeout_s)).config
            policy = config.version_policy.specific
            wanted = list(policy.versions)
            policy.versions[:] = [one for one in wanted if str(one) not in versions]
            if policy.versions:
                await client.load_model(model, config=as_json(config), client_timeout=timeout_s)
                policy.versions[:] = wanted
                await client.load_model(model, config=as_json(config), client_timeout=timeout_s)
                return
        except InferenceServerException as error:
            raise unavailable(error) from error
    await load(address, model, timeout_s=timeout_s)


async def unload(address: str, model: str, *, timeout_s: float) -> None:
    """Stop serving *model*, every version of it. Raises `RankerUnavailable`."""
    async with connect(address) as client:
        try:
            await client.unload_model(model, client_timeout=timeout_s)
        except InferenceServerException as error:
            raise unavailable(error) from error


async def _running_config(
    client: triton.InferenceServerClient, model: str, timeout_s: float
) -> Config | None:
    index = await client.get_model_repository_index(client_timeout=timeout_s)
    if not any(one.name == model and one.state == "READY" for one in index.models):
        return None
    return (await client.get_model_config(model, client_timeout=timeout_s)).config


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
