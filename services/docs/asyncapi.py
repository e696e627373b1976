"""
docs/asyncapi.yaml, made from the models that parse and write the records: ``make docs``.

The topics, their configuration and every field come from `stream`, so the document cannot say
something else than the code does; a test compares the two.
"""

from importlib.metadata import version
from typing import Any, Literal

import yaml
from msgspec import Struct
from msgspec.json import schema_components
from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from stream import records, topics
from stream.deployments import Deployment
from stream.event_contract import Event
from stream.items import Item
from stream.recommendation import Recommendation
from stream.reports import WorkerReport
from stream.trace import Trace

DESCRIPTION = """\
A shop writes events and items; for every event it finds the user's refreshed slate on
recommendations.v1. Keys are UTF-8 text. An event belongs on the partition murmur2(user_id) modulo
the number of partitions, which is what Java clients do by default and librdkafka's with
`partitioner=murmur2_random`; on another one it is published again to its place. Ids may be JSON
integers, which are taken as their decimal text. Unknown fields are ignored. Delivery is at least
once: ignore a slate whose state.offset is lower than one seen from that state.partition.
HEADRACE_PREFIX goes before every address."""

# topic -> the model of its values (None: any bytes) and what we do with it
_CHANNELS: dict[
    str, tuple[type[BaseModel] | type[Struct] | None, Literal["receive", "send"], str]
] = {
    topics.EVENTS: (Event, "receive", "What users do. A null value is a dead letter."),
    topics.ITEMS: (Item, "receive", "The catalogue; a null value deletes the item."),
    topics.RECOMMENDATIONS: (
        Recommendation,
        "send",
        "The newest slate of each user; a null value means forgotten.",
    ),
    topics.SIGNALS: (
        None,
        "send",
        "What events say of items, by item: internal, packed (`stream.signals`).",
    ),
    topics.DEPLOYMENTS: (
        Deployment,
        "receive",
        "Which version of a model serves whom; `headrace model` writes it, and so does a worker "
        "that stops a canary. A record whose revision is not newer than one seen is void.",
    ),
    topics.REPORTS: (
        WorkerReport,
        "send",
        "What each worker sees of each version; `headrace model status` reads the newest.",
    ),
    topics.TRACE: (
        Trace,
        "send",
        "What the ranker was given for a share of the slates (HEADRACE_TRACE_SHARE).",
    ),
    topics.EVENTS_DLQ: (
        None,
        "send",
        "Events that can never be processed: key, value and headers untouched.",
    ),
}
_REFERENCE = "#/components/schemas/{model}"


def document() -> dict[str, Any]:
    """The AsyncAPI 3 document."""
    modes: list[tuple[type[BaseModel], Literal["validation", "serialization"]]] = [
        (model, "validation" if action == "receive" else "serialization")
        for model, action, _ in _CHANNELS.values()
        if model is not None and issubclass(model, BaseModel)
    ]
    _, schemas = models_json_schema(modes, ref_template=_REFERENCE)
    structs = [model for model, _, _ in _CHANNELS.values() if model and issubclass(model, Struct)]
    _, of_structs = schema_components(structs, ref_template=_REFERENCE.replace("model", "name"))
    return {
        "asyncapi": "3.0.0",
        "info": {
            "title": "Headrace",
            "version": version("headrace"),
            "description": DESCRIPTION.replace("\n", " "),
            "license": {
                "name": "Apache-2.0",
                "url": "https://www.apache.org/licenses/LICENSE-2.0",
            },
        },
        "defaultContentType": "application/json",
        "channels": {name: _channel(topics.TOPICS[name]) for name in _CHANNELS},
        "operations": {_operation_id(name): _operation(name) for name in _CHANNELS},
        "components": {
            "messages": {_message_id(name): _message(name) for name in _CHANNELS},
            "schemas": {**schemas["$defs"], **of_structs},
        },
    }


def to_yaml(content: dict[str, Any]) -> str:
    """*content* as the file holds it."""
    header = "# Made by `make docs` from stream/; do not edit.\n"
    return header + yaml.safe_dump(content, sort_keys=False, allow_unicode=True, width=99)


def _channel(topic: topics.Topic) -> dict[str, Any]:
    configuration = topic.config()
    message = _message_id(topic.name)
    return {
        "address": topic.name,
        "description": _CHANNELS[topic.name][2],
        "messages": {message: {"$ref": f"#/components/messages/{message}"}},
        "bindings": {
            "kafka": {
                "topic": topic.name,
                "partitions": topic.partitions,
                "topicConfiguration": {
                    "cleanup.policy": configuration["cleanup.policy"].split(","),
                    "retention.ms": int(configuration["retention.ms"]),
                    "max.message.bytes": int(configuration["max.message.bytes"]),
                },
                "bindingVersion": "0.5.0",
            }
        },
    }


def _operation(name: str) -> dict[str, Any]:
    _, action, description = _CHANNELS[name]
    return {
        "action": action,
        "summary": description,
        "channel": {"$ref": f"#/channels/{name}"},
        "messages": [{"$ref": f"#/channels/{name}/messages/{_message_id(name)}"}],
    }


def _message(name: str) -> dict[str, Any]:
    model, _, _ = _CHANNELS[name]
    key = topics.TOPICS[name].key
    message: dict[str, Any] = {
        "name": name,
        "bindings": {
            "kafka": {
                "key": {"type": "string", "description": key},
                "bindingVersion": "0.5.0",
            }
        },
    }
    if model is not None:
        message["payload"] = {"$ref": _REFERENCE.format(model=model.__name__)}
    else:
        message["contentType"] = "application/octet-stream"
        message["payload"] = {"description": "Bytes; the channel says which."}
    if headers := _headers(name):
        message["headers"] = {"type": "object", "properties": headers}
    return message


def _headers(name: str) -> dict[str, Any]:
    """The headers that we read or add, all of them UTF-8 text."""
    if name == topics.EVENTS:
        header, value = records.BACKFILL
        described = {
            header: f"`{value.decode()}`: history; it builds state, no slate is pushed",
            **dict.fromkeys(sorted(records.TRACE_HEADERS), "W3C Trace Context; its slate goes on"),
        }
    elif name == topics.RECOMMENDATIONS:
        described = {
            records.EVENT_TIME_MS: "the broker's timestamp of the event behind it, ms",
            **dict.fromkeys(sorted(records.TRACE_HEADERS), "W3C Trace Context, of the event"),
        }
    elif name == topics.EVENTS_DLQ:
        described = {
            records.REASON: "field and rule",
            records.SOURCE_TOPIC: "where it was read",
            records.SOURCE_PARTITION: "where it was read",
            records.SOURCE_OFFSET: "where it was read",
            records.FAILED_AT: "when, RFC 3339",
        }
    else:
        described = {}
    return {header: {"type": "string", "description": text} for header, text in described.items()}


def _message_id(name: str) -> str:
    model = _CHANNELS[name][0]
    if model is not None:
        return model.__name__
    return "".join(part.capitalize() for part in name.split("."))


def _operation_id(name: str) -> str:
    _, action, _ = _CHANNELS[name]
    return action + "".join(part.capitalize() for part in name.split("."))


if __name__ == "__main__":
    import sys

    sys.stdout.write(to_yaml(document()))
