"""The servers that every other integration test stands on."""

from confluent_kafka.admin import AdminClient, ConfigResource, ResourceType

from stream.topics import TOPICS, with_prefix
from tests.integration.support import Processes, Servers


def test_topics_are_created_as_the_table_says(
    stack: Servers, prefix: str, environment: dict[str, str]
) -> None:
    """A log that is compacted, or a catalogue that is not, loses data without a word."""
    admin = AdminClient({"bootstrap.servers": stack.kafka})
    names = {with_prefix(prefix, name): topic for name, topic in TOPICS.items()}

    found = admin.list_topics(timeout=10).topics
    described = admin.describe_configs([ConfigResource(ResourceType.TOPIC, name) for name in names])

    actual = {
        resource.name: (
            len(found[resource.name].partitions),
            {key: entry.value for key, entry in future.result().items()},
        )
        for resource, future in described.items()
    }
    for name, topic in names.items():
        partitions, configuration = actual[name]
        assert partitions == topic.partitions
        assert topic.config().items() <= configuration.items()


def test_creating_the_topics_again_changes_nothing(process: Processes) -> None:
    """The one-shot set-up of a deployment runs at every deployment."""
    again = process("setup", "--topics")

    assert again.popen.wait(30) == 0
    assert "created none was missing" in again.output
