"""The ``--map`` grammar: which column of a foreign log is which field of ours, and its unit."""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

import click

CONTEXT_FIELDS = ("context.page", "context.device", "context.country")
# The fields of an event that a log may keep under another name.
FIELDS = (
    "event_id",
    "event_type",
    "event_timestamp",
    "user_id",
    "session_id",
    "item_id",
    "price",
    "currency",
    "quantity",
    "order_id",
    "query",
    "recommendation_id",
    *CONTEXT_FIELDS,
)
TIMES = ("event_timestamp", "created_at")
NANOSECONDS = {"s": 1_000_000_000, "ms": 1_000_000, "us": 1_000, "ns": 1}


@dataclass(frozen=True, slots=True)
class Column:
    """Where a field is found, and in which unit if it is a numeric time."""

    name: str
    unit: str | None = None  # a key of NANOSECONDS; None: RFC 3339 text or a Parquet timestamp


def parse_mapping(options: Iterable[str], fields: Collection[str] = FIELDS) -> dict[str, Column]:
    """
    Read ``FIELD=COLUMN[:UNIT]`` options, such as ``event_timestamp=ts_ms:ms``.

    Returns:
        A column for every field that was named; the others keep their own name.

    Raises:
        click.UsageError: If an option is malformed, names an unknown field, or names one twice.
    """
    mapping: dict[str, Column] = {}
    for option in options:
        field, equals, target = option.partition("=")
        if not equals or not target:
            raise click.UsageError(
                f"--map {option}: write it as FIELD=COLUMN or FIELD=COLUMN:UNIT."
            )
        if field not in fields:
            raise click.UsageError(
                f"--map {option}: no field {field!r}; one of {', '.join(fields)}."
            )
        if field in mapping:
            raise click.UsageError(f"--map {option}: {field} is mapped twice.")
        mapping[field] = _column(option, field, target)
    return mapping


def _column(option: str, field: str, target: str) -> Column:
    name, colon, unit = target.rpartition(":")
    if not colon:
        return Column(target)
    if field not in TIMES or unit not in NANOSECONDS:
        units = ", ".join(NANOSECONDS)
        raise click.UsageError(
            f"--map {option}: a unit is for {' or '.join(TIMES)} only, and one of {units}."
        )
    return Column(name, unit)


def column_of(mapping: Mapping[str, Column], field: str) -> Column:
    """The column that holds *field*: as mapped, else of the same name."""
    return mapping.get(field) or Column(field)
