"""Apache Kafka in KRaft mode: one node that is broker and controller."""

import asyncio
import subprocess
import uuid
from base64 import urlsafe_b64encode
from pathlib import Path

from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient

from services.embedded.install import Installation
from services.embedded.part import Part
from services.embedded.ports import HOST
from services.errors import CommandFailed
from services.kafka.connection import KafkaConnection
from services.kafka.topics_setup import ensure_topics

# The second compiler would take five seconds of a core in the first half minute, when everything
# else starts as well, and earn them back after some 100,000 events.
JVM = ("-Xms128m", "-Xmx384m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1")
PROBE_TIMEOUT_S = 2.0
FORMAT_TIMEOUT_S = 60.0
# Two cores and one user: small pools, no waiting for members, no hand-over at the end.
CONFIGURATION = """\
process.roles=broker,controller
node.id=1
controller.quorum.voters=1@{host}:{controller_port}
listeners=BROKER://{host}:{port},CONTROLLER://{host}:{controller_port}
advertised.listeners=BROKER://{host}:{port}
listener.security.protocol.map=BROKER:PLAINTEXT,CONTROLLER:PLAINTEXT
inter.broker.listener.name=BROKER
controller.listener.names=CONTROLLER
log.dirs={log_dir}
auto.create.topics.enable=false
num.partitions=1
default.replication.factor=1
offsets.topic.replication.factor=1
offsets.topic.num.partitions=8
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
transaction.state.log.num.partitions=1
share.coordinator.state.topic.replication.factor=1
share.coordinator.state.topic.min.isr=1
group.initial.rebalance.delay.ms=0
group.min.session.timeout.ms=1000
controlled.shutdown.enable=false
num.network.threads=2
num.io.threads=4
log.cleaner.dedupe.buffer.size=16777216
socket.request.max.bytes=16777216
"""


def kafka(
    installation: Installation, directory: Path, *, port: int, controller_port: int, prefix: str
) -> Part:
    """The part; its data and configuration lie in *directory*."""
    configuration = directory / "server.properties"
    data = directory / "data"
    java = (str(installation.java), *JVM, "-cp", f"{installation.kafka_jars}/*")

    def prepare() -> None:
        directory.mkdir(parents=True, exist_ok=True)
        configuration.write_text(
            CONFIGURATION.format(
                host=HOST, port=port, controller_port=controller_port, log_dir=data
            )
        )
        if not (data / "meta.properties").exists():
            _format(java, configuration)

    return Part(
        name="kafka",
        address=f"{HOST}:{port}",
        command=(
            *java[:-2],
            "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn",
            "-Dorg.slf4j.simpleLogger.showDateTime=true",
            "-Dorg.slf4j.simpleLogger.dateTimeFormat=yyyy-MM-dd'T'HH:mm:ss",
            *java[-2:],
            "kafka.Kafka",
            str(configuration),
        ),
        environment={"HOME": str(directory), "LANG": "C.UTF-8"},
        probe=_Probe(KafkaConnection(f"{HOST}:{port}"), prefix),
        prepare=prepare,
        stop_within_s=15.0,
    )


class _Probe:
    """Ready is: the broker answers, our topics are there, and every partition has its leader."""

    def __init__(self, kafka: KafkaConnection, prefix: str) -> None:
        self._kafka = kafka
        self._prefix = prefix
        self._admin: AdminClient | None = None
        self._topics_made = False

    async def __call__(self) -> str | None:
        return await asyncio.to_thread(self._ask)

    def _ask(self) -> str | None:
        if self._admin is None:
            self._admin = AdminClient(
                {
                    **self._kafka.config(),
                    "reconnect.backoff.ms": 20,
                    "reconnect.backoff.max.ms": 100,
                    "log_level": 0,
                }
            )
        try:
            topics = self._admin.list_topics(timeout=PROBE_TIMEOUT_S).topics
            if not self._topics_made:
                ensure_topics(self._kafka, prefix=self._prefix)
                self._topics_made = True
                topics = self._admin.list_topics(timeout=PROBE_TIMEOUT_S).topics
        except KafkaException as error:
            return f"no metadata: {error.args[0].str()}"
        except CommandFailed as error:
            return error.message
        leaderless = [
            name
            for name, topic in topics.items()
            if any(partition.leader == -1 for partition in topic.partitions.values())
        ]
        return f"no leader yet: {', '.join(sorted(leaderless)[:3])}" if leaderless else None


def _format(java: tuple[str, ...], configuration: Path) -> None:
    """Give the data directory its cluster id: once in its life."""
    cluster_id = urlsafe_b64encode(uuid.uuid4().bytes).rstrip(b"=").decode().replace("-", "A")
    options = ("--cluster-id", cluster_id, "--config", str(configuration))
    formatting = subprocess.run(
        [*java, "kafka.tools.StorageTool", "format", *options],
        capture_output=True,
        text=True,
        timeout=FORMAT_TIMEOUT_S,
        check=False,
    )
    if formatting.returncode:
        said = (formatting.stderr or formatting.stdout).strip()[-300:]
        raise CommandFailed(f"Kafka's storage cannot be formatted: {said}")
