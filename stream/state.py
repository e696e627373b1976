"""
What keeps state whole: a value is replaced only if it is as it was read, and if what was written
before it is still there.
"""

from typing import Any, NamedTuple


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


class Written(NamedTuple):
    """
    The last value of a write that the store has acknowledged, for the next write to stand on.

    A store may lose what it has acknowledged: a replica takes over, a log is torn by a crash. It
    loses from the end, so while this value is there, so is all that was written before it.

    Attributes:
        key: Where it lies, in the store's own terms.
        applied: What it names as applied.
    """

    key: Any
    applied: str
