"""The event contract: what a storefront may write to `events.v1`, and why a record is refused."""

import re
from datetime import datetime
from typing import Annotated, Any, Literal, Self

from pydantic import (
    AwareDatetime,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    StringConstraints,
    ValidationError,
    model_validator,
)
from pydantic.config import JsonValue

MAX_ID_CHARACTERS = 256


def _integer_as_text(value: Any) -> Any:
    # Shops with numeric ids send JSON integers; `True` is an int to Python, but not an id.
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    return value


def _only_text(value: Any) -> Any:
    # pydantic would guess whether a number is seconds or milliseconds; we refuse to.
    if isinstance(value, datetime) or (isinstance(value, str) and _RFC_3339_DATE.match(value)):
        return value
    raise ValueError("must be RFC 3339 text with an offset")


_RFC_3339_DATE = re.compile(r"\d{4}-\d{2}-\d{2}[Tt ]", re.ASCII)


Id = Annotated[
    str,
    BeforeValidator(_integer_as_text),
    StringConstraints(min_length=1, max_length=MAX_ID_CHARACTERS),
]
Timestamp = Annotated[AwareDatetime, BeforeValidator(_only_text)]
Currency = Annotated[str, StringConstraints(pattern=r"^[A-Z]{3}$")]
EventTypeName = Literal[
    "impression",
    "view",
    "click",
    "search",
    "add_to_cart",
    "remove_from_cart",
    "wishlist",
    "checkout",
    "purchase",
    "refund",
    "dislike",
]


class Context(BaseModel):
    """Where on the storefront it happened."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    page: str | None = Field(None, max_length=256)
    position: int | None = Field(None, ge=0, le=1_000_000)
    device: str | None = Field(None, max_length=64)
    country: str | None = Field(None, max_length=64)


# What `Event._has_its_object` checks, for producers who check against the published schema.
_HAS_ITS_OBJECT: list[JsonValue] = [
    {
        "properties": {"event_type": {"const": "search"}, "query": {"type": "string"}},
        "required": ["query"],
    },
    {
        "properties": {
            "event_type": {"not": {"const": "search"}},
            "item_id": {"type": "string"},
        },
        "required": ["item_id"],
    },
]


class Event(BaseModel):
    """One user action on one item, one record. Keyed by ``user_id``."""

    # Producers deploy before we do, so fields we do not know yet are ignored.
    model_config = ConfigDict(
        frozen=True, extra="ignore", json_schema_extra={"anyOf": _HAS_ITS_OBJECT}
    )

    event_id: Id = Field(description="One per user action; what we deduplicate on.")
    event_type: EventTypeName
    event_timestamp: Timestamp = Field(
        description="When the user acted: RFC 3339 with an offset. A number is refused."
    )
    user_id: Id
    item_id: Id | None = Field(None, description="Required but for `search`.")
    session_id: Id | None = None
    price: float | None = Field(None, ge=0, le=1e12, allow_inf_nan=False)
    currency: Currency | None = None
    # Real logs hold slips of the keyboard (10**16 pairs of pants): no reason to lose an event.
    quantity: int | None = Field(None, ge=1, le=2**63 - 1)
    order_id: Id | None = None
    query: str | None = Field(None, max_length=4096, description="Required for `search`.")
    recommendation_id: Id | None = None
    context: Context | None = None

    @model_validator(mode="after")
    def _has_its_object(self) -> Self:
        if self.event_type == "search":
            if not self.query:
                raise ValueError("query: required for a search")
        elif self.item_id is None:
            raise ValueError(f"item_id: required for {self.event_type}")
        return self


def faults(error: ValidationError) -> str:
    """One line naming each field at fault and the rule it breaks, without its value."""
    return "; ".join(
        f"{'.'.join(map(str, fault['loc'])) or 'value'}: {fault['type']} ({_rule(fault)})"
        for fault in error.errors(include_url=False, include_input=False)
    )


def _rule(fault: Any) -> str:
    # The text of a JSON error quotes nothing; enum and date errors name only what is allowed.
    return str(fault["msg"])[:200]
