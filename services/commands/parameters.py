"""Options that several commands take, and their types."""

from datetime import UTC, datetime
from typing import Any

import click

from services.logs.pacing import parse_speed

MAP = click.option(
    "--map",
    "mapping",
    multiple=True,
    metavar="FIELD=COLUMN[:UNIT]",
    help="Which column holds a field; times that are numbers need a unit (s, ms, us, ns).",
)
MAP_ITEM = click.option(
    "--map-item",
    "item_mapping",
    multiple=True,
    metavar="FIELD=COLUMN",
    help="Which column of --items holds a field: title, brand, categories.",
)


class Moment(click.ParamType):
    """A date or an RFC 3339 time, as epoch milliseconds; UTC where it says nothing else."""

    name = "date"

    def convert(self, value: Any, param: Any, ctx: Any) -> int:
        """Parse *value*, or say how to write it."""
        if isinstance(value, int):
            return value
        try:
            moment = datetime.fromisoformat(value)
        except ValueError:
            self.fail(f"{value!r} is not a date; write 2016-10-01 or 2016-10-01T12:00:00Z.")
        return int((moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp() * 1000)


class Speed(click.ParamType):
    """``10x``."""

    name = "speed"

    def convert(self, value: Any, param: Any, ctx: Any) -> float:
        """Parse *value*, or say how to write it."""
        return value if isinstance(value, float) else parse_speed(value)
