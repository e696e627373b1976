"""
Which state the workers work on.

A state is one Feast project: its name carries the format of the user rows and a number. Workers of
two formats therefore share nothing, and go on side by side while one replaces the other. Which
number is live is a record on `deployments.v1` for each format; `headrace rebuild` makes the next
state beside the live one, and then announces it.
"""

from collections.abc import Callable
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import structlog
from pydantic import BaseModel, ConfigDict, Field

from services.errors import CommandFailed
from services.kafka.follow import Follower
from services.kafka.publishing import Publisher
from services.settings import Settings
from stream import topics
from stream.history import FORMAT
from stream.topics import with_prefix

if TYPE_CHECKING:
    from features.store import FeatureRows

READ_WITHIN_S = 30.0
KEY = f"state/{FORMAT}".encode()

log = structlog.get_logger()


class Layout(BaseModel):
    """How many partitions workers once counted, and up to where they folded by that number."""

    model_config = ConfigDict(frozen=True)

    partitions: int = Field(ge=1)
    until: tuple[int, ...] = Field(description="By partition: the first offset folded otherwise.")


class State(BaseModel):
    """The live state of one row format, as announced."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    number: int = Field(1, ge=1)
    partitions: int = Field(ge=1, description="Of events.v1, while this state is live.")
    earlier: tuple[Layout, ...] = Field((), description="Numbers of partitions that it had before.")
    announced_at: datetime
    reason: str = Field(description="For people.")


class StateFeed:
    """
    The live state as `deployments.v1` says; see `Follower` for how it is fed.

    Args:
        announced: Called in the follower's thread with each state.
    """

    def __init__(self, announced: Callable[[State], None] = lambda state: None) -> None:
        self._announced = announced
        self.current: State | None = None

    def take(self, key: bytes, value: bytes | None, partition: int, offset: int) -> None:
        """Follow one announcement; those of models and of other formats are not for us."""
        if key != KEY or value is None:
            return
        try:
            state = State.model_validate_json(value)
        except ValueError as error:  # keep what is live
            log.error("state_refused", offset=offset, reason=str(error)[:500])
            return
        # Never an older one: a worker's first announcement may come late.
        if self.current is None or state.number > self.current.number:
            self.current = state
            self._announced(state)


def project(settings: Settings, number: int, row_format: int = FORMAT) -> str:
    """The Feast project of a state."""
    return f"{settings.feast_project}_r{row_format}_s{number}"


def open_rows(settings: Settings, number: int) -> "FeatureRows[str]":
    """The rows of a state; takes seconds, since it imports Feast."""
    from features.store import FeatureRows

    return FeatureRows.open(
        settings.redis_connection, settings.feast_registry, project(settings, number)
    )


def live(settings: Settings) -> State | None:
    """
    The live state; None if no worker of this row format has ever run.

    Raises:
        CommandFailed: If Kafka or `deployments.v1` is not there.
    """
    feed = StateFeed()
    with Follower(settings.kafka, _topic(settings), feed.take) as follower:
        follower.start(READ_WITHIN_S)
    return feed.current


def live_number(settings: Settings) -> int:
    """The number of the live state: 1 until another has been announced."""
    state = live(settings)
    return state.number if state is not None else 1


def open_live(settings: Settings) -> "FeatureRows[str]":
    """The rows of the live state."""
    return open_rows(settings, live_number(settings))


def announce(settings: Settings, state: State) -> None:
    """Make *state* the live one: workers of its format end, and start again on it."""
    with Publisher(settings.kafka, linger_ms=0) as publisher:
        publisher.send(_topic(settings), KEY, state.model_dump_json().encode())


def for_worker(settings: Settings, partitions: int) -> State:
    """
    The state that a worker is to work on; the first worker of a row format announces it.

    Args:
        partitions: Of events.v1, now.

    Raises:
        CommandFailed: If the state was made for another number of partitions: users would find
            themselves on partitions whose workers know nothing of them.
    """
    state = live(settings)
    if state is None:
        state = first(partitions)
        announce(settings, state)
    elif state.partitions != partitions:
        raise CommandFailed(
            f"{with_prefix(settings.prefix, topics.EVENTS)} has {partitions} partitions, and state "
            f"{state.number} was made for {state.partitions}. Run `headrace rebuild`: it makes a "
            "state for these."
        )
    return state


def replaced(mine: State, feed: StateFeed) -> bool:
    """Whether another state than *mine* is live by now."""
    if feed.current is None or feed.current.number == mine.number:
        return False
    log.info("state_replaced", number=mine.number, live=feed.current.number)
    return True


def first(partitions: int) -> State:
    """The state with which a row format begins."""
    return State(
        number=1, partitions=partitions, announced_at=datetime.now(UTC), reason="first worker"
    )


def _topic(settings: Settings) -> str:
    return with_prefix(settings.prefix, topics.DEPLOYMENTS)
