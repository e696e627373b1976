"""
What keeps state whole: a value is replaced only if it is as it was read, and if what was written
before it is still there.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, TypeVar

K = TypeVar("K")


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


class Dependency(NamedTuple):
    """
    A value that the store has acknowledged, which the next write depends on.

    Attributes:
        key: Where it lies, in the store's own terms.
        applied: What it names as applied.
    """

    key: Any
    applied: str


Dependencies = tuple[Dependency, ...]
"""What a write comes after: these values must be there still."""


def nearest_dependencies(
    new: Mapping[K, Replacement], where: Callable[[K], Any], after: Dependencies
) -> Dependencies:
    """
    What the write after this one depends on, when *new* has been written after *after*.

    A store may lose what it has acknowledged: a replica takes over, a log is torn by a crash. It
    loses from the end. So the last value that has changed is enough: while it is there, so is all
    that was written before it (the nearest dependency of Lloyd et al., "Don't settle for eventual",
    SOSP 2011). Where nothing has changed, as in a repeat, all of it is looked at.

    Args:
        where: The store's own terms for a key.
    """
    changed = [key for key, one in new.items() if one.applied != one.expected]
    if changed:
        last = changed[-1]
        return (Dependency(where(last), new[last].applied),)
    return (*after, *(Dependency(where(key), one.applied) for key, one in new.items()))
