"""A version's `config.pbtxt`: does it keep the contract, and what Triton gets for several."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from google.protobuf import json_format, text_format
from tritonclient.grpc import model_config_pb2

from services.models.triton import DTYPES

ANY = -1  # a length that may differ from request to request
OUTPUTS = {"item_keys": "INT64", "scores": "FP32"}
Config: TypeAlias = model_config_pb2.ModelConfig


@dataclass(frozen=True)
class Placement:
    """
    Where Triton runs a model.

    Attributes:
        device: ``cpu`` or ``gpu``.
        instances: Copies of it that compute at once, each a process with its own memory.
    """

    device: str = "cpu"
    instances: int = 1


def parse(pbtxt: str) -> Config:
    """The configuration in *pbtxt*. Raises `ValueError` if it is none."""
    config = Config()
    try:
        text_format.Parse(pbtxt, config)
    except text_format.ParseError as error:
        raise ValueError(str(error)) from error
    return config


def breach(config: Config) -> str | None:
    """Where *config* breaks the contract between worker and ranker; None if nowhere."""
    if config.backend != "python":
        return f"the backend is {config.backend or config.platform!r}, not 'python'"
    if config.max_batch_size < 1:
        return "max_batch_size is not set: rows come in batches"
    inputs = {tensor.name: tensor for tensor in config.input}
    if "item_keys" not in inputs:
        return "it has no input item_keys"
    for name, tensor in inputs.items():
        if name not in DTYPES:
            if not tensor.optional:
                return f"it requires the input {name!r}, which nobody sends"
        elif problem := _unlike(tensor, DTYPES[name][0]):
            return f"input {name} {problem}"
        elif list(tensor.dims) != [ANY]:
            return f"input {name} has dims {list(tensor.dims)}, not [-1]"
    return _output_breach(config)


def _output_breach(config: Config) -> str | None:
    outputs = {tensor.name: tensor for tensor in config.output}
    for name, kind in OUTPUTS.items():
        if name not in outputs:
            return f"it has no output {name}"
        if problem := _unlike(outputs[name], kind):
            return f"output {name} {problem}"
    lengths = {tuple(outputs[name].dims) for name in OUTPUTS}
    if len(lengths) > 1 or len(next(iter(lengths))) != 1:
        return f"item_keys and scores must have one and the same length, not {sorted(lengths)}"
    return None


def _unlike(tensor: "model_config_pb2.ModelInput", kind: str) -> str | None:
    name = model_config_pb2.DataType.Name(tensor.data_type).removeprefix("TYPE_")
    return None if name == kind else f"is {name}, not {kind}"


def combine(
    configs: Mapping[str, Config], *, model: str, versions: Sequence[str], placement: Placement
) -> Config:
    """
    The one configuration under which Triton can serve all *versions*.

    Triton has one for a model and not for a version. Where the versions' own are alike it is
    theirs, and loading another version then leaves those that are loaded alone. Where they differ
    it asks for no input that one of them does without, and promises no more than all of them do.

    Args:
        configs: The configuration of each version.
        model: The model's name on Triton.
        versions: Those to be loaded.
        placement: Where they are to run.
    """
    newest, *others = [configs[version] for version in sorted(versions, key=int, reverse=True)]
    combined = Config()
    combined.CopyFrom(newest)
    for other in others:
        _admit(combined, other)
    combined.name = model
    combined.version_policy.specific.versions[:] = sorted(int(version) for version in versions)
    kind = model_config_pb2.ModelInstanceGroup.Kind.Value(f"KIND_{placement.device.upper()}")
    del combined.instance_group[:]
    combined.instance_group.add(kind=kind, count=placement.instances)
    return combined


def _admit(combined: Config, other: Config) -> None:
    theirs = {tensor.name: tensor for tensor in other.input}
    for tensor in combined.input:
        tensor.optional = tensor.optional or tensor.name not in theirs
    ours = {tensor.name for tensor in combined.input}
    for name, tensor in theirs.items():
        if name not in ours:
            combined.input.add().CopyFrom(tensor)
            combined.input[-1].optional = True
    promised = {tensor.name: tensor for tensor in other.output}
    shared = [tensor for tensor in combined.output if tensor.name in promised]
    for tensor in shared:
        if tensor.dims != promised[tensor.name].dims:
            tensor.dims[:] = [ANY]
    kept = [type(tensor).FromString(tensor.SerializeToString()) for tensor in shared]
    del combined.output[:]
    combined.output.extend(kept)
    combined.max_batch_size = min(combined.max_batch_size, other.max_batch_size)
    longest = max((_history_length(config) for config in (combined, other)), default=0)
    if longest:
        combined.parameters["history_length"].string_value = str(longest)


def _history_length(config: Config) -> int:
    # Reading a missing key of a protobuf map would make it.
    if "history_length" not in config.parameters:
        return 0
    return int(config.parameters["history_length"].string_value or 0)


def as_json(config: Config) -> str:
    """*config* as the load request takes it."""
    text: str = json_format.MessageToJson(config, preserving_proto_field_name=True)
    return text


def as_text(config: Config) -> str:
    """*config* as the repository keeps it."""
    text: str = text_format.MessageToString(config)
    return text
