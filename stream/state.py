"""What keeps state from having two writers: a value is replaced only if it is as it was read."""

from typing import NamedTuple


class StateMoved(Exception):
    """
    The stored state is not what this worker read or wrote last.

    Another worker owns it by now, or the store came back older than it was. Either way nothing
    was written, and nothing may be acknowledged: stop, and begin again from what is stored.
    """


class Replacement(NamedTuple):
    """
    A new value, and what it may replace.

    Attributes:
        value: What is stored.
        expected: What the stored value must name as applied; empty if nothing may be there yet.
        applied: How far the new value has come, as text that no later value repeats.
    """

    value: bytes
    expected: str
    applied: str
