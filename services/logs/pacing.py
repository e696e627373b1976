"""When the next event of a replay is due. No clock in here: time is an argument."""

import re

import click


def parse_speed(text: str) -> float:
    """
    Read ``10x`` or ``0.5``: log seconds that pass in one real second.

    Raises:
        click.BadParameter: If it is not a positive number.
    """
    match = re.fullmatch(r"(\d+(?:\.\d+)?|\.\d+)x?", text.strip())
    if match is None or float(match[1]) == 0:
        raise click.BadParameter(f"{text!r} is not a speed; write for example 10x.")
    return float(match[1])


class Pacer:
    """
    Delays the events of a log to a speed (by their own times), a rate (by their number) or both.

    An event that is earlier than its predecessor is due at once: logs are rarely in perfect order.
    """

    def __init__(self, *, speed: float | None = None, rate: float | None = None) -> None:
        self._speed = speed
        self._rate = rate
        self._started_s: float | None = None
        self._first_event_ms = 0
        self._count = 0

    def wait_s(self, event_ms: int, *, now_s: float) -> float:
        """Seconds from *now_s* until the event with time *event_ms* is due; at least 0."""
        if self._started_s is None:
            self._started_s = now_s
            self._first_event_ms = event_ms
        due_s = self._started_s
        if self._speed is not None:
            due_s += (event_ms - self._first_event_ms) / 1000 / self._speed
        if self._rate is not None:
            due_s = max(due_s, self._started_s + self._count / self._rate)
        return max(0.0, due_s - now_s)

    def sent(self) -> None:
        """The event that was waited for has been sent."""
        self._count += 1
