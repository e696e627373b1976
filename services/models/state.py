"""The state of a model on `deployments.v1`: read, followed, and written by one of several."""

from collections.abc import Callable

import structlog

from services.errors import CommandFailed
from services.kafka.connection import KafkaConnection
from services.kafka.follow import Follower
from services.kafka.publishing import Publisher
from stream.deployments import Deployment, follow

READ_WITHIN_S = 30.0

log = structlog.get_logger()


class DeploymentFeed:
    """
    The state of *model* as `deployments.v1` says; see `Follower` for how it is fed.

    Args:
        model: The model's name on Triton.
        followed: Called in the follower's thread with each state that is new.
    """

    def __init__(
        self, model: str, followed: Callable[[Deployment], None] = lambda state: None
    ) -> None:
        self._model = model
        self._followed = followed
        self._current: Deployment | None = None

    def current(self) -> Deployment | None:
        """The state now; None while there is no model."""
        return self._current

    def take(self, key: bytes, value: bytes | None, partition: int, offset: int) -> None:
        """Follow one announcement; a null value withdraws the model."""
        if key.decode(errors="replace") != self._model:
            return
        if value is None:
            self._current = None
            return
        try:
            announced = Deployment.model_validate_json(value)
        except ValueError as error:  # keep what serves
            log.error("deployment_refused", offset=offset, reason=str(error)[:500])
            return
        before, self._current = self._current, follow(self._current, announced)
        if self._current is not before:
            self._followed(announced)


def read_state(kafka: KafkaConnection, topic: str, model: str) -> Deployment | None:
    """
    What *topic* says of *model* now; None if it has never been deployed.

    Raises:
        CommandFailed: If Kafka or the topic is not there.
    """
    feed = DeploymentFeed(model)
    with Follower(kafka, topic, feed.take) as follower:
        follower.start(READ_WITHIN_S)
    return feed.current()


def write_state(kafka: KafkaConnection, topic: str, state: Deployment) -> None:
    """
    Announce *state*, and see whether it holds: another may have written the same revision first.

    Raises:
        CommandFailed: If Kafka does not take it, or another change came first, which then holds.
    """
    # Workers follow a state once, however often it is written.
    with Publisher(kafka, linger_ms=0, idempotent=False) as publisher:
        _send(publisher, topic, state)
        holds = read_state(kafka, topic, state.model)
        if holds is None or holds == state:
            return
        # Compaction keeps a key's last record, and that is now the one that came too late.
        _send(publisher, topic, holds)
    raise CommandFailed(
        f"{state.model} was changed at the same moment ({holds.reason}), and that holds. "
        "See `headrace model status`, and repeat the command if it is still wanted."
    )


def _send(publisher: Publisher, topic: str, state: Deployment) -> None:
    publisher.send(topic, state.model.encode(), state.model_dump_json().encode())
    publisher.flush()
