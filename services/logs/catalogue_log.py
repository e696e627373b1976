"""Rows of somebody's catalogue become our items."""

from collections.abc import Mapping
from typing import Any

import orjson

from services.logs.columns import Column, column_of
from services.logs.eventlog import timestamp_text
from services.logs.rows import BadRow, Row
from stream.items import InvalidItem, Item, parse_item

FIELDS = tuple(Item.model_fields)
FALSE = {"false", "0", "no", "n", "f"}


class ItemReader:
    """
    Turns rows into items.

    Text of several categories, as a CSV file has it, is cut at *separator*, outermost first.
    """

    def __init__(
        self,
        mapping: Mapping[str, Column] | None = None,
        constants: Mapping[str, str] | None = None,
        *,
        separator: str = "/",
    ) -> None:
        self._constants = dict(constants or {})
        self._separator = separator
        self._columns = [(field, column_of(dict(mapping or {}), field)) for field in FIELDS]

    @property
    def columns(self) -> set[str]:
        """The columns that are read."""
        return {column.name for _, column in self._columns}

    def read(self, row: Row) -> tuple[Item, bytes]:
        """
        The item in *row*, and its record's value.

        Raises:
            BadRow: Naming the field at fault and the rule.
        """
        if row.fault is not None:
            raise BadRow(row.fault)
        fields: dict[str, Any] = dict(self._constants)
        for field, column in self._columns:
            value = row.values.get(column.name)
            if value is not None and value != "" and value == value:  # NaN: pandas' "none"
                fields[field] = self._converted(field, column, value)
        try:
            raw = orjson.dumps(fields)
            return parse_item(raw), raw
        except TypeError as error:
            raise BadRow(f"value: cannot be JSON ({error})") from error
        except InvalidItem as error:
            raise BadRow(str(error)) from error

    def _converted(self, field: str, column: Column, value: Any) -> Any:
        if field == "created_at":
            return timestamp_text(value, column.unit)
        if field == "categories" and isinstance(value, str):
            return [part for name in value.split(self._separator) if (part := name.strip())]
        if field == "available" and isinstance(value, str):
            return value.strip().lower() not in FALSE
        return str(value) if field == "item_id" and type(value) is int else value
