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
from services.embedded.security import USER, Security, write_private
from services.errors import CommandFailed
from services.kafka.connection import KafkaConnection
from services.kafka.topics_setup import ensure_topics

# Huge pages: a tenth less of its processor time where each event is a request (docs/decisions.md).
JVM = ("-Xms128m", "-Xmx384m", "-XX:+UseSerialGC", "-XX:+UseTransparentHugePages")
# Java's second compiler halves what a request costs. It takes ten seconds of a core for that, most
# of it in the first minute, when everything else starts as well.
BRIEF = ("-XX:TieredStopAtLevel=1",)
PROBE_TIMEOUT_S = 2.0
FORMAT_TIMEOUT_S = 60.0
# Two cores and one user: small pools, no waiting for members, no hand-over at the end.
CONFIGURATION = """\
process.roles=broker,controller
node.id=1
controller.quorum.voters=1@{host}:{controller_port}
listeners=BROKER://{host}:{port},CONTROLLER://{host}:{controller_port}
advertised.listeners=BROKER://{host}:{port}
listener.security.protocol.map=BROKER:{protocol},CONTROLLER:{protocol}
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
num.network.threads=1
num.io.threads=2
log.cleaner.dedupe.buffer.size=16777216
socket.request.max.bytes=16777216
"""
SECURED = """\
sasl.enabled.mechanisms=PLAIN
sasl.mechanism.inter.broker.protocol=PLAIN
sasl.mechanism.controller.protocol=PLAIN
listener.name.broker.plain.sasl.jaas.config={jaas}
listener.name.controller.plain.sasl.jaas.config={jaas}
ssl.keystore.type=PEM
ssl.keystore.location={server_file}
ssl.truststore.type=PEM
ssl.truststore.location={ca_file}
"""
JAAS = (
    "org.apache.kafka.common.security.plain.PlainLoginModule required "
    'username="{user}" password="{password}" user_{user}="{password}";'
)


def kafka(
    installation: Installation,
    directory: Path,
    *,
    port: int,
    controller_port: int,
    prefix: str,
    brief: bool = False,
    security: Security | None = None,
) -> Part:
    """
    The part; its data and configuration lie in *directory*.

    Args:
        brief: It is to run for minutes, and may stay slow in return for a quick start.
        security: Given, it wants a login.
    """
    address = f"{HOST}:{port}"
    connection = security.kafka(address) if security is not None else KafkaConnection(address)
    configuration = directory / "server.properties"
    data = directory / "data"
    options = (*JVM, *BRIEF) if brief else JVM
    java = (str(installation.java), *options, "-cp", f"{installation.kafka_jars}/*")

    def prepare() -> None:
        directory.mkdir(parents=True, exist_ok=True)
        text = CONFIGURATION.format(
            host=HOST,
            port=port,
            controller_port=controller_port,
            log_dir=data,
            protocol=connection.protocol,
        )
        write_private(configuration, text + (_secured(security) if security is not None else ""))
        if not (data / "meta.properties").exists():
            _format(java, configuration)

    return Part(
        name="kafka",
        address=address,
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
        probe=_Probe(connection, prefix),
        prepare=prepare,
        stop_within_s=15.0,
    )


def _secured(security: Security) -> str:
    return SECURED.format(
        jaas=JAAS.format(user=USER, password=security.kafka_password),
        server_file=security.server_file,
        ca_file=security.ca_file,
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
