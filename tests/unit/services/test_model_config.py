"""A version's config.pbtxt: what of it breaks the contract, and how several get along."""

from typing import Any

import pytest

from services.models.config import Placement, as_json, as_text, breach, combine, parse

CONFIG = """
backend: "python"
max_batch_size: 256
input [
  { name: "item_keys" data_type: TYPE_INT64 dims: [ -1 ] },
  { name: "event_types" data_type: TYPE_INT32 dims: [ -1 ] },
  { name: "ages_s" data_type: TYPE_FP32 dims: [ -1 ] }
]
output [
  { name: "item_keys" data_type: TYPE_INT64 dims: [ 200 ] },
  { name: "scores" data_type: TYPE_FP32 dims: [ 200 ] },
  { name: "user_vector" data_type: TYPE_FP32 dims: [ 64 ] }
]
parameters { key: "history_length" value { string_value: "50" } }
"""
PLAIN = """
backend: "python"
max_batch_size: 64
input [ { name: "item_keys" data_type: TYPE_INT64 dims: [ -1 ] } ]
output [
  { name: "item_keys" data_type: TYPE_INT64 dims: [ 100 ] },
  { name: "scores" data_type: TYPE_FP32 dims: [ 100 ] }
]
parameters { key: "history_length" value { string_value: "5" } }
"""


def combined(placement: Placement | None = None, **pbtxts: str) -> Any:
    """The configuration of versions named v1, v2 and so on."""
    configs = {name.removeprefix("v"): parse(text) for name, text in pbtxts.items()}
    return combine(
        configs, model="ranker", versions=list(configs), placement=placement or Placement()
    )


@pytest.mark.parametrize("text", [CONFIG, PLAIN])
def test_what_keeps_the_contract_is_accepted(text: str) -> None:
    """A model may read less than it is offered."""
    assert breach(parse(text)) is None


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        ('"python"', '"onnxruntime"', "backend"),
        ("max_batch_size: 256", "", "max_batch_size"),
        ('"item_keys" data_type: TYPE_INT64 dims: [ -1 ]', '"items" data_type: TYPE_INT64', "item"),
        ('"ages_s" data_type: TYPE_FP32', '"ages_s" data_type: TYPE_FP64', "ages_s is FP64"),
        ('"ages_s" data_type: TYPE_FP32 dims: [ -1 ]', '"ages_s" data_type: TYPE_FP32 dims: [ 50 ]',
         r"ages_s has dims \[50\]"),
        ('"event_types" data', '"moon_phase" data', "requires the input 'moon_phase'"),
        ('"scores" data_type: TYPE_FP32', '"scores" data_type: TYPE_FP16', "scores is FP16"),
        ('"scores"', '"logits"', "no output scores"),
        ('"scores" data_type: TYPE_FP32 dims: [ 200 ]', '"scores" data_type: TYPE_FP32 dims: [ 5 ]',
         "the same length"),
    ],
)  # fmt: skip
def test_a_breach_of_the_contract_is_named(old: str, new: str, reason: str) -> None:
    """The worker would find out in front of the users."""
    assert old in CONFIG
    with pytest.raises(AssertionError, match=reason):
        assert (breach(parse(CONFIG.replace(old, new)))) is None


def test_a_file_that_is_no_configuration_is_refused() -> None:
    """It comes from a version directory, which somebody else has made."""
    with pytest.raises(ValueError, match="many"):
        parse("max_batch_size: many")


def test_alike_versions_are_served_under_their_own_configuration() -> None:
    """Only the list of versions may differ, or Triton starts those anew that are loaded."""
    one, two = combined(v4=CONFIG), combined(v4=CONFIG, v5=CONFIG)

    assert list(two.version_policy.specific.versions) == [4, 5]
    two.version_policy.specific.versions[:] = [4]
    assert as_text(one) == as_text(two)


def test_unlike_versions_share_what_all_of_them_have() -> None:
    """Triton has one configuration for a model, whoever made its versions."""
    both = combined(v4=CONFIG, v5=PLAIN)

    assert {tensor.name: tensor.optional for tensor in both.input} == {
        "item_keys": False,
        "event_types": True,
        "ages_s": True,
    }
    assert {tensor.name: list(tensor.dims) for tensor in both.output} == {
        "item_keys": [-1],
        "scores": [-1],
    }
    assert both.max_batch_size == 64
    assert both.parameters["history_length"].string_value == "50"
    assert breach(both) is None


def test_the_device_is_where_triton_runs_it() -> None:
    """The same version is released for both."""
    assert '"KIND_GPU"' in as_json(combined(Placement("gpu"), v1=CONFIG))


def test_as_many_copies_compute_at_once_as_are_asked_for() -> None:
    """On more cores than one copy keeps busy."""
    (group,) = combined(Placement(instances=3), v1=CONFIG).instance_group

    assert group.count == 3
