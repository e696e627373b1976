"""Which log a topic is: what marks name, so that a topic made again under its name is noticed."""

from confluent_kafka import KafkaException, TopicCollection
from confluent_kafka.admin import AdminClient

from services.errors import CommandFailed
from services.kafka.connection import KafkaConnection
from stream.marks import LogId

TIMEOUT_S = 15.0


def log_id(kafka: KafkaConnection, topic: str) -> LogId:
    """
    The ids that Kafka gave its cluster and *topic* (its full name).

    Raises:
        CommandFailed: If Kafka does not answer, or has no such topic.
    """
    admin = AdminClient({**kafka.config(), "log_level": 0})
    try:
        cluster = admin.describe_cluster(request_timeout=TIMEOUT_S).result()
        (described,) = admin.describe_topics(
            TopicCollection([topic]), request_timeout=TIMEOUT_S
        ).values()
        return LogId(str(cluster.cluster_id), str(described.result().topic_id))
    except KafkaException as error:
        raise CommandFailed(
            f"Kafka at {kafka} did not describe {topic}: {error.args[0].str()}. "
            "Check HEADRACE_KAFKA_SERVERS, or create it: headrace setup --topics."
        ) from error
