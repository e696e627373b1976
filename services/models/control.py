"""Triton's models from outside: load, unload and configure them, and ask one for proof."""

import time
from collections.abc import Mapping, Sequence
from typing import Any

import tritonclient.grpc.aio as triton
from google.protobuf import json_format, text_format
from numpy.typing import NDArray
from tritonclient.grpc import model_config_pb2
from tritonclient.utils import InferenceServerException

from services.models.triton import connect, infer, read_contract, unavailable
from stream.ranking import Ranked


async def load(address: str, model: str, *, config: str | None = None, timeout_s: float) -> None:
    """
    Load *model*, or load it again: the way to heal a dead stub. Requests go on being answered.

    Triton keeps what has not changed, dead stubs included, so what is loaded already gets a
    configuration that differs from the last one.

    Args:
        config: A JSON model configuration to use in place of the repository's.

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
    return _as_json(answer.config)


def configure(pbtxt: str, versions: Sequence[str], *, device: str) -> tuple[str, str]:
    """
    A version's `config.pbtxt`, made to load exactly *versions* on *device* (``cpu``, ``gpu``).

    Returns:
        The configuration as JSON, which `load` takes, and as text, which the repository keeps.

    Raises:
        ValueError: If *pbtxt* is not a model configuration.
    """
    try:
        config = text_format.Parse(pbtxt, model_config_pb2.ModelConfig())
    except text_format.ParseError as error:
        raise ValueError(f"config.pbtxt: {error}") from error
    config.version_policy.specific.versions[:] = [int(version) for version in versions]
    kind = model_config_pb2.ModelInstanceGroup.Kind.Value(f"KIND_{device.upper()}")
    del config.instance_group[:]
    config.instance_group.add(kind=kind, count=1)
    return _as_json(config), text_format.MessageToString(config)


def configured_versions(pbtxt: str) -> tuple[str, ...]:
    """The versions that a repository's `config.pbtxt` has Triton load, the serving one last."""
    config = text_format.Parse(pbtxt, model_config_pb2.ModelConfig())
    return tuple(str(version) for version in config.version_policy.specific.versions)


def _as_json(config: model_config_pb2.ModelConfig) -> str:
    text: str = json_format.MessageToJson(config, preserving_proto_field_name=True)
    return text


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
    async with connect(address) as client:
        contract = await read_contract(client, model, version, timeout_s)
        return await infer(client, model, version, contract, tensors, timeout_s)
