"""docs/asyncapi.yaml says what the code does: neighbours generate their code from it."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from services.docs.asyncapi import document, to_yaml
from stream import topics
from tests.builders import event_json

FILE = Path(__file__).parents[2] / "docs" / "asyncapi.yaml"


@pytest.fixture(scope="module")
def published() -> dict[str, Any]:
    parsed: dict[str, Any] = yaml.safe_load(FILE.read_text())
    return parsed


def references(node: Any) -> Iterator[str]:
    if isinstance(node, dict):
        if "$ref" in node:
            yield node["$ref"]
        for child in node.values():
            yield from references(child)
    elif isinstance(node, list):
        for child in node:
            yield from references(child)


def test_the_document_is_current() -> None:
    """After a change of a model or a topic: `make docs`."""
    assert FILE.read_text() == to_yaml(document())


def test_every_topic_is_described(published: dict[str, Any]) -> None:
    """A topic that nobody knows is a topic that nobody monitors."""
    assert set(published["channels"]) == set(topics.TOPICS)


def test_every_reference_leads_somewhere(published: dict[str, Any]) -> None:
    """Generators stop at the first one that does not."""
    found = set(references(published))

    assert found
    for reference in found:
        node: Any = published
        for step in reference.removeprefix("#/").split("/"):
            node = node[step]


@pytest.mark.parametrize(
    ("fields", "valid"),
    [
        ({}, True),
        ({"unknown": 1}, True),
        ({"event_type": "search", "query": "hat", "item_id": ...}, True),
        ({"event_type": "search"}, False),
        ({"item_id": ...}, False),
        ({"user_id": ...}, False),
        ({"user_id": ""}, False),
        ({"event_type": "x"}, False),
        ({"event_timestamp": 1470052800}, False),
    ],
)
def test_the_schema_of_events_tells_events_from_others(
    published: dict[str, Any], fields: dict[str, Any], valid: bool
) -> None:
    """A producer that checks against the document is not dead-lettered."""
    schema = {**published, "$ref": "#/components/schemas/Event"}
    validator = jsonschema.Draft202012Validator(schema)

    assert validator.is_valid(event_json(**fields)) == valid
