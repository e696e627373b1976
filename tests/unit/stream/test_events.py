"""What a producer may and may not write. Every refusal names the field and the rule."""

import json
from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from stream import event_contract
from stream.event_types import EventType
from stream.events import InvalidEvent, epoch_ms, parse_event, read_event
from tests.builders import T0_MS, an_event, event_json

RULES = {"kafka_timestamp_ms": T0_MS + 1000, "max_ahead_ms": 5000}


def refusal(raw: bytes | None) -> str:
    with pytest.raises(InvalidEvent) as refused:
        parse_event(raw, **RULES)
    return str(refused.value)


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"not json",
        b"[]",
        b"null",
        b'"text"',
        b"\xff\xfe\x00",
        b'{"event_id": "\xff"}',
        b'{"event_id":' * 3000,
        b'{"user_id": "\\ud800"}',
        None,
    ],
)
def test_what_is_not_a_json_object_is_refused(raw: bytes | None) -> None:
    """Garbage on the topic must become a dead letter, whatever the garbage."""
    assert refusal(raw)


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"event_id": ...}, "event_id: missing"),
        ({"event_type": ...}, "event_type: missing"),
        ({"event_timestamp": ...}, "event_timestamp: missing"),
        ({"user_id": ...}, "user_id: missing"),
        ({"item_id": ...}, "item_id: required"),
        ({"event_type": "search", "item_id": ...}, "query: required"),
        ({"event_type": "teleport"}, "event_type"),
        ({"event_type": "identify"}, "event_type"),
        ({"event_type": 3}, "event_type"),
        ({"event_timestamp": "2016-08-01T12:00:00"}, "event_timestamp: timezone_aware"),
        ({"event_timestamp": 1470052800}, "event_timestamp"),
        ({"event_timestamp": 1470052800.5}, "event_timestamp"),
        ({"event_timestamp": "1470052800"}, "event_timestamp"),
        ({"event_timestamp": "+5"}, "event_timestamp"),
        ({"event_timestamp": "2016-08-01"}, "event_timestamp"),
        ({"event_timestamp": "yesterday"}, "event_timestamp"),
        ({"event_timestamp": None}, "event_timestamp"),
        ({"user_id": ""}, "user_id"),
        ({"user_id": "x" * 257}, "user_id"),
        ({"user_id": "x" * 1000}, "user_id"),
        ({"user_id": None}, "user_id"),
        ({"user_id": True}, "user_id"),
        ({"user_id": 1.5}, "user_id"),
        ({"user_id": ["ada"]}, "user_id"),
        ({"item_id": ""}, "item_id"),
        ({"price": -1}, "price"),
        ({"price": "NaN"}, "price"),
        ({"quantity": 0}, "quantity"),
        ({"currency": "dollars"}, "currency"),
        ({"context": "home"}, "context"),
        ({"at_ms": T0_MS + 6001}, "ahead of the record"),
    ],
)
def test_a_refusal_names_the_field_at_fault(fields: dict[str, object], named: str) -> None:
    """Whoever reads the dead letter should know what to mend."""
    assert named in refusal(orjson.dumps(event_json(**fields)))  # type: ignore[arg-type]


def test_a_refusal_does_not_repeat_the_users_data() -> None:
    """Reasons go to logs and headers; what users did must not."""
    assert "secret" not in refusal(orjson.dumps(event_json(user_id=["secret"], price="secret")))


def test_integer_ids_are_taken_as_their_decimal_text() -> None:
    """Shops with numeric ids send JSON integers."""
    event = an_event(user_id=42, item_id=10**18)

    assert (event.user_id, event.item_id) == ("42", str(10**18))


def test_ids_of_256_characters_are_taken() -> None:
    """The limit is 256 characters, not bytes."""
    assert an_event(user_id="é" * 256).user_id == "é" * 256


def test_unknown_fields_are_ignored() -> None:
    """Producers deploy before we do."""
    assert an_event(loyalty_tier="gold").item_id == "hat"


def test_as_far_ahead_as_the_limit_is_taken() -> None:
    """Clocks of storefronts run ahead a little."""
    assert parse_event(orjson.dumps(event_json(at_ms=T0_MS + 6000)), **RULES)


def test_event_time_is_exact_to_the_millisecond_in_any_offset() -> None:
    """Binary floating point would round half of all milliseconds wrongly."""
    event = an_event(event_timestamp="2016-08-01T14:00:00.123+02:00")

    assert event.timestamp_ms == T0_MS + 123


ids = st.sampled_from(["ada", "", "é" * 256, "x" * 257, 7, -(10**18), 1.5, True, None, ["ada"]])
WRITTEN = {
    "event_id": ids,
    "event_type": st.sampled_from([*(kind.name.lower() for kind in EventType), "View", 3, None]),
    "event_timestamp": st.one_of(
        st.datetimes(timezones=st.timezones()).map(lambda at: at.isoformat()),
        st.from_regex(
            r"20[12]\d-[01]\d-[0-3]\d[Tt ][0-2]\d:[0-6]\d(:[0-6]\d([.,]\d{1,9})?)?"
            r"(Z|z|[+-][012]\d(:?[0-6]\d)?)?\n?",
            fullmatch=True,
        ),
        st.sampled_from([1470052800, "1470052800", "2016-08-01", "२०१६-08-01T12:00:00Z", None]),
    ),
    "user_id": ids,
    "item_id": ids,
    "session_id": ids,
    "price": st.sampled_from([0, -0.0, 12, 12.5, 1e12, 1.1e12, 10**400, -1, "3", "NaN", None]),
    "currency": st.sampled_from(["USD", "USD\n", "usd", "", "EURO", 3, None]),
    "quantity": st.sampled_from([0, 1, 3.0, 3.5, "3", 2**63 - 1, 2**63, True, None]),
    "order_id": ids,
    "query": st.sampled_from(["hats", "", "x" * 4096, "é" * 4097, 3, None]),
    "recommendation_id": ids,
    "context": st.sampled_from(
        [
            *({}, None, "home", [], {"page": "home", "position": 3, "device": "tv", "x": 1}),
            *({"page": "x" * 257}, {"position": -1}, {"position": "2"}, {"country": "é" * 64}),
            *({"country": "é" * 65}, {"device": 1}, {"page": None, "position": 10**6 + 1}),
        ]
    ),
    "timestamp_ms": st.sampled_from([5, "5", None]),
    "loyalty_tier": st.sampled_from(["gold", 1e300, {"a": [1, None]}]),
}


few = st.sets(st.sampled_from(sorted(WRITTEN)), max_size=3).flatmap(
    lambda names: st.fixed_dictionaries({name: WRITTEN[name] for name in sorted(names)})
)


@settings(max_examples=1500, deadline=None)
@given(few)
def test_events_are_read_as_the_contract_says(written: dict[str, Any]) -> None:
    """What is read quickly is what the published contract reads, and nothing that it refuses."""
    raw = json.dumps({**event_json(), **written}).encode()
    try:
        agreed = event_contract.Event.model_validate_json(raw)
    except ValidationError:
        with pytest.raises(InvalidEvent):
            read_event(raw)
        return

    event = read_event(raw)

    for name in event_contract.Event.model_fields.keys() - {"event_timestamp", "context"}:
        assert getattr(event, name) == getattr(agreed, name)
    assert event.timestamp_ms == epoch_ms(agreed.event_timestamp)
    assert (event.context is None) == (agreed.context is None)
    if event.context and agreed.context:
        for name in event_contract.Context.model_fields:
            assert getattr(event.context, name) == getattr(agreed.context, name)
