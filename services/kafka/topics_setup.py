"""Creates the topics of `stream.topics`, and keeps their configuration up to date."""

from concurrent.futures import Future
from typing import Any

from confluent_kafka import KafkaException
from confluent_kafka.admin import (
    AdminClient,
    AlterConfigOpType,
    ConfigEntry,
    ConfigResource,
    NewTopic,
    ResourceType,
)
from tenacity import RetryError, Retrying, retry_if_result, stop_after_delay, wait_fixed

from services.errors import CommandFailed
from services.kafka.connection import KafkaConnection
from stream.topics import EVENTS, TOPICS, Topic, with_prefix

BROKER_DEFAULT = -1


def ensure_topics(
    kafka: KafkaConnection,
    *,
    prefix: str = "",
    replication_factor: int = BROKER_DEFAULT,
    timeout_s: float = 30.0,
) -> list[str]:
    """
    Create the topics that are missing and configure all of them as the table says.

    Returns:
        The names of those created.

    Raises:
        CommandFailed: If Kafka cannot be reached or refuses, or a topic exists with another number
            of partitions. That is never changed here: it would move users to other partitions.
    """
    admin = AdminClient({**kafka.config(), "log_level": 0})
    wanted = {with_prefix(prefix, topic.name): topic for topic in TOPICS.values()}
    try:
        existing = {
            name: len(found.partitions)
            for name, found in admin.list_topics(timeout=timeout_s).topics.items()
        }
        created = sorted(wanted.keys() - existing.keys())
        if created:
            topics = {name: wanted[name] for name in created}
            _create(admin, topics, replication_factor, timeout_s)
            _wait_for_leaders(admin, created, timeout_s)
        _refuse_other_partitions(wanted, existing)
        _configure(admin, {name: wanted[name] for name in wanted.keys() & existing.keys()})
    except KafkaException as error:
        raise CommandFailed(
            f"Kafka at {kafka} did not do it: {error.args[0].str()}. "
            "Check the address (HEADRACE_KAFKA_SERVERS) and that it runs."
        ) from error
    return created


def _create(
    admin: AdminClient, topics: dict[str, Topic], replication_factor: int, timeout_s: float
) -> None:
    made = admin.create_topics(
        [
            NewTopic(
                name,
                num_partitions=topic.partitions,
                replication_factor=replication_factor,
                config=topic.config(),
            )
            for name, topic in topics.items()
        ],
        operation_timeout=timeout_s,
    )
    for future in made.values():
        _result(future, unless="TOPIC_ALREADY_EXISTS")  # someone else was quicker


def _wait_for_leaders(admin: AdminClient, names: list[str], timeout_s: float) -> None:
    """The controller has made them; the brokers learn of it a moment later."""

    def led() -> bool:
        known = admin.list_topics(timeout=timeout_s).topics
        return all(
            name in known
            and known[name].partitions
            and all(partition.leader >= 0 for partition in known[name].partitions.values())
            for name in names
        )

    patience = Retrying(
        retry=retry_if_result(lambda done: not done),
        stop=stop_after_delay(timeout_s),
        wait=wait_fixed(0.05),
    )
    try:
        patience(led)
    except RetryError:
        raise CommandFailed(
            f"topics were created, but have no leader after {timeout_s:.0f} s. Look at the brokers."
        ) from None


def _refuse_other_partitions(wanted: dict[str, Topic], existing: dict[str, int]) -> None:
    for name, topic in wanted.items():
        found = existing.get(name, topic.partitions)
        # More of events.v1 is what an operator may want; the workers ask for a rebuild then.
        if found != topic.partitions and not (topic.name == EVENTS and found > topic.partitions):
            raise CommandFailed(
                f"topic {name} has {found} partitions, but {topic.partitions} are needed: "
                "users would land elsewhere. Choose another HEADRACE_PREFIX, or delete the topic."
            )


def _configure(admin: AdminClient, topics: dict[str, Topic]) -> None:
    resources = [
        ConfigResource(
            ResourceType.TOPIC,
            name,
            incremental_configs=[
                ConfigEntry(key, value, incremental_operation=AlterConfigOpType.SET)
                for key, value in topic.config().items()
            ],
        )
        for name, topic in topics.items()
    ]
    if resources:
        for future in admin.incremental_alter_configs(resources).values():
            _result(future)


def _result(future: "Future[Any]", *, unless: str = "") -> None:
    try:
        future.result()
    except KafkaException as error:
        if error.args[0].name() != unless:
            raise
