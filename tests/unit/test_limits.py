"""Nothing that comes from outside is of unlimited size: what the published contract must say."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson
import pytest
import yaml

from stream.items import InvalidItem, parse_item
from tests.builders import an_item

SCHEMAS: dict[str, Any] = yaml.safe_load(
    (Path(__file__).parents[2] / "docs/asyncapi.yaml").read_text()
)["components"]["schemas"]
BOUNDS = {
    "string": {"maxLength", "pattern", "enum", "const", "format"},
    "array": {"maxItems"},
    "object": {"maxProperties", "properties"},
    "integer": {"maximum"},
    "number": {"maximum"},
}


def unbounded(schema: dict[str, Any], path: str) -> Iterator[str]:
    """The places in *schema* where a producer may write as much as a record holds."""
    kind = schema.get("type")
    if kind in BOUNDS and not BOUNDS[kind] & schema.keys():
        yield path
    for name, part in schema.get("properties", {}).items():
        yield from unbounded(part, f"{path}.{name}")
    for part in schema.get("anyOf", []):
        if "type" in part:  # and not a rule about which fields come together
            yield from unbounded(part, path)
    for inner in ("items", "additionalProperties", "propertyNames"):
        if isinstance(part := schema.get(inner), dict):
            yield from unbounded({"type": "string", **part}, f"{path}[{inner}]")


@pytest.mark.parametrize("name", ["Event", "Context", "Item"])
def test_every_field_of_a_producer_has_a_limit(name: str) -> None:
    """A row holds hundreds of events, a worker the text of ten thousand items."""
    assert list(unbounded(SCHEMAS[name], name)) == []


@pytest.mark.parametrize(
    "fields",
    [
        {"categories": ["a"] * 33},
        {"categories": ["a" * 257]},
        {"attributes": {f"n{n}": "" for n in range(257)}},
        {"attributes": {"n" * 257: ""}},
        {"attributes": {"n": "v" * 4097}},
    ],
)
def test_an_item_beyond_a_limit_is_refused(fields: dict[str, Any]) -> None:
    """The schema and the code that reads are made from one model; this holds the model to it."""
    with pytest.raises(InvalidItem):
        parse_item(orjson.dumps(an_item().model_dump(mode="json") | fields))
