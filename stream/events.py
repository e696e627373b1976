"""How a value of `events.v1` becomes an `Event`. What may be written: `stream.event_contract`."""

from datetime import datetime
from typing import Annotated

from msgspec import DecodeError, Meta, Struct
from msgspec.json import Decoder
from pydantic import ValidationError

from stream import event_contract
from stream.event_contract import MAX_ID_CHARACTERS, EventTypeName, faults
from stream.event_types import BY_NAME, EventType

# Structs, not the contract's models: those take ten times as long. What is said of each field is
# what the contract says, and what it refuses must not be read: tests/unit/stream/test_events.py.
Id = Annotated[str, Meta(min_length=1, max_length=MAX_ID_CHARACTERS)]
_TIME = r"^\d{4}-\d{2}-\d{2}[Tt ]\d{2}:\d{2}:\d{2}(\.\d{1,9})?(Z|[+-]([01]\d|2[0-3]):[0-5]\d)\Z"


class InvalidEvent(Exception):
    """These bytes are not an event we know. Permanent: retrying cannot help."""


class Context(Struct, gc=False):
    """Where on the storefront it happened."""

    page: Annotated[str, Meta(max_length=256)] | None = None
    position: Annotated[int, Meta(ge=0, le=1_000_000)] | None = None
    device: Annotated[str, Meta(max_length=64)] | None = None
    country: Annotated[str, Meta(max_length=64)] | None = None


class Event(Struct, gc=False, kw_only=True):
    """
    One user action on one item.

    Attributes:
        timestamp_ms: Event time, epoch milliseconds UTC; of a field of that name nothing is read.
    """

    event_id: Id
    event_type: EventTypeName
    event_timestamp: Annotated[str, Meta(pattern=_TIME)]
    user_id: Id
    item_id: Id | None = None
    session_id: Id | None = None
    price: Annotated[float, Meta(ge=0, le=1e12)] | None = None
    currency: Annotated[str, Meta(pattern=r"^[A-Z]{3}\Z")] | None = None
    quantity: Annotated[int, Meta(ge=1, le=2**63 - 1)] | None = None
    order_id: Id | None = None
    query: Annotated[str, Meta(max_length=4096)] | None = None
    recommendation_id: Id | None = None
    context: Context | None = None
    timestamp_ms: int = 0

    def __post_init__(self) -> None:
        if not (self.query if self.event_type == "search" else self.item_id):
            raise ValueError("it is about nothing")
        self.timestamp_ms = epoch_ms(datetime.fromisoformat(self.event_timestamp))

    @property
    def kind(self) -> EventType:
        """The event type as its stable code."""
        return BY_NAME[self.event_type]


_read = Decoder(Event).decode


def epoch_ms(moment: datetime) -> int:
    """Epoch milliseconds of an aware *moment*, in exact integer arithmetic."""
    from_epoch = moment - _EPOCH
    return (from_epoch.days * 86_400 + from_epoch.seconds) * 1000 + from_epoch.microseconds // 1000


_EPOCH = datetime.fromisoformat("1970-01-01T00:00:00+00:00")


def parse_event(raw: bytes | None, *, kafka_timestamp_ms: int, max_ahead_ms: int) -> Event:
    """
    Parse one value of `events.v1`.

    Args:
        raw: The record's value.
        kafka_timestamp_ms: The record's own timestamp. "Far-future" is measured against it and
            never against the clock, so that a replay decides alike.
        max_ahead_ms: How far the event may lie ahead of that.

    Raises:
        InvalidEvent: Naming the fields at fault and the rule, never their values: those are user
            data and stay out of logs.
    """
    if raw is None:
        raise InvalidEvent("value: null (an event log has no tombstones)")
    event = read_event(raw)
    if event.timestamp_ms > kafka_timestamp_ms + max_ahead_ms:
        raise InvalidEvent(
            f"event_timestamp: more than {max_ahead_ms / 1000:g} s ahead of the record's timestamp"
        )
    return event


def read_event(raw: bytes) -> Event:
    """As `parse_event`, of an event whose time is not in question."""
    try:
        raw.isascii() or raw.decode()  # nobody else looks into fields that we do not know
        return _read(raw)
    except (DecodeError, UnicodeDecodeError, RecursionError):
        return _by_contract(raw)


def _by_contract(raw: bytes) -> Event:
    """What is written in another way than most (ids as numbers), or why it is no event."""
    try:
        found = event_contract.Event.model_validate_json(raw)
    except ValidationError as error:
        raise InvalidEvent(faults(error)) from error
    fields = {name: value for name, value in found if name not in ("event_timestamp", "context")}
    return Event(
        **fields,
        event_timestamp=found.event_timestamp.isoformat(),
        context=None if found.context is None else Context(**dict(found.context)),
    )
