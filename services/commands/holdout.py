"""What a version is judged on: the last share of a time range, or all from a date on."""

from typing import Any

import click

from services.commands.parameters import Moment
from services.errors import CommandFailed

Held = tuple[float | None, int | None]  # a share, or epoch ms; the other one is None


class Holdout(click.ParamType):
    """``10%`` of the time range, or the date from which on."""

    name = "share|date"

    def convert(self, value: Any, param: Any, ctx: Any) -> Held:
        """A share of the time range, or epoch ms; the other one is None."""
        if not str(value).endswith("%"):
            return None, Moment().convert(value, param, ctx)
        try:
            share = float(value[:-1]) / 100
        except ValueError:
            share = -1
        if not 0 <= share < 1:
            self.fail(f"{value!r} is not a share; write 10% or a date.")
        return share, None


def holdout_from(first_ms: int, last_ms: int, holdout: Held) -> int:
    """
    The event time, epoch ms, at which the held-out part of a range begins.

    Raises:
        CommandFailed: If that is the whole range.
    """
    share, from_ms = holdout
    if share is not None:
        # One millisecond on, so that a share of 0 holds out nothing.
        return last_ms + 1 - round(share * (last_ms - first_ms))
    if from_ms is None or not first_ms < from_ms:
        raise CommandFailed("--holdout begins before the first event: nothing to learn from.")
    return from_ms
