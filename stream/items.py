"""The item contract: what the catalogue writes to `items.v1`. A null value deletes the item."""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError

from stream.event_contract import Currency, Id, Timestamp, faults
from stream.events import InvalidEvent

Name = Annotated[str, StringConstraints(max_length=256)]


class InvalidItem(InvalidEvent):
    """These bytes are not an item. Permanent: retrying cannot help."""


class Item(BaseModel):
    """One item of the catalogue. Keyed by ``item_id``."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    item_id: Id
    title: str = Field(min_length=1, max_length=1024)
    description: str | None = Field(None, max_length=65_536)
    brand: str | None = Field(None, max_length=256)
    categories: tuple[Name, ...] = Field((), max_length=32, description="Outermost first.")
    price: float | None = Field(None, ge=0, le=1e12, allow_inf_nan=False)
    currency: Currency | None = None
    available: bool = True
    image_url: str | None = Field(None, max_length=2048)
    created_at: Timestamp | None = None
    attributes: dict[Name, Annotated[str, StringConstraints(max_length=4096)]] = Field(
        {}, max_length=256
    )


def parse_item(raw: bytes) -> Item:
    """
    Parse one value of `items.v1`.

    Raises:
        InvalidItem: Naming the fields at fault.
    """
    try:
        return Item.model_validate_json(raw)
    except ValidationError as error:
        raise InvalidItem(faults(error)) from error


def item_text(item: Item) -> str:
    """What a model reads of an item: one rule, for training and for serving."""
    return " | ".join(
        part for part in (item.title, item.brand, " > ".join(item.categories)) if part
    )
