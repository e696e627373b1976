"""The next Kafka: three brokers, three replicas of each partition, and one of them dies."""

import asyncio
import subprocess
from base64 import urlsafe_b64encode
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient

from services.embedded import install, kafka
from services.kafka.connection import KafkaConnection
from services.kafka.topics_setup import ensure_topics
from services.settings import Settings
from stream import topics
from tests.integration.ledger import Ledger, load, settled_under_care
from tests.integration.support import Processes, eventually, free_port

EVENTS, RATE = 3000, 200.0
BROKERS = range(1, 4)
CLUSTER = urlsafe_b64encode(b"three brokers...").decode().rstrip("=")
# Over the embedded Kafka's; of what stands twice the later counts. A broker that is gone is
# noticed in 3 s, and not in 9.
AMONG_THREE = """\
node.id={number}
controller.quorum.voters={voters}
broker.session.timeout.ms=3000
broker.heartbeat.interval.ms=500
default.replication.factor=3
min.insync.replicas=2
offsets.topic.replication.factor=3
transaction.state.log.replication.factor=3
transaction.state.log.min.isr=2
"""


class Cluster:
    """Three processes that are broker and controller each."""

    def __init__(self, directory: Path) -> None:
        there = install.locate(Settings().cache_dir)
        java = [str(there.java), *kafka.JVM, *kafka.BRIEF, "-cp", f"{there.kafka_jars}/*"]
        ports = {number: (free_port(), free_port()) for number in BROKERS}
        voters = ",".join(f"{n}@127.0.0.1:{controller}" for n, (_, controller) in ports.items())
        self.servers = ",".join(f"127.0.0.1:{port}" for port, _ in ports.values())
        self._brokers: dict[int, subprocess.Popen[bytes]] = {}
        for number, (port, controller) in ports.items():
            file = directory / f"{number}.properties"
            own = AMONG_THREE.format(number=number, voters=voters)
            file.write_text(
                kafka.CONFIGURATION.format(
                    host="127.0.0.1",
                    port=port,
                    controller_port=controller,
                    log_dir=directory / str(number),
                    protocol="PLAINTEXT",
                )
                + own
            )
            formatting = ["format", "--cluster-id", CLUSTER, "--config", str(file)]
            subprocess.run(
                [*java, "kafka.tools.StorageTool", *formatting], check=True, capture_output=True
            )
            with (directory / f"{number}.log").open("wb") as log:
                self._brokers[number] = subprocess.Popen(
                    [*java, "kafka.Kafka", str(file)], stdout=log, stderr=log, cwd=directory
                )

    @property
    def admin(self) -> AdminClient:
        return AdminClient({"bootstrap.servers": self.servers, "log_level": 0})

    def whole(self) -> bool:
        """Whether every broker has joined."""
        try:
            return len(self.admin.list_topics(timeout=2).brokers) == len(BROKERS)
        except KafkaException:
            return False

    def kill_leader(self, topic: str) -> None:
        """SIGKILL to the broker that leads the first partition of *topic*."""
        partitions = self.admin.list_topics(topic, timeout=5).topics[topic].partitions
        leader = self._brokers[partitions[0].leader]
        leader.kill()
        leader.wait()

    def close(self) -> None:
        for broker in self._brokers.values():
            broker.kill()
            broker.wait()


@pytest.fixture
def cluster(installed: None, tmp_path: Path) -> Iterator[Cluster]:
    directory = tmp_path / "brokers"
    directory.mkdir()
    cluster = Cluster(directory)
    yield cluster
    cluster.close()


async def test_a_broker_that_dies_takes_nothing_with_it(
    environment: dict[str, str], prefix: str, process: Processes, cluster: Cluster
) -> None:
    """The two others have every acknowledged record, and lead on."""
    await eventually(cluster.whole, timeout_s=60)
    ensure_topics(KafkaConnection(cluster.servers), prefix=prefix, replication_factor=3)
    ledger = Ledger(
        {**environment, "HEADRACE_KAFKA_SERVERS": cluster.servers},
        # Else what was written and not acknowledged is written again, as another record.
        config={"enable.idempotence": True},
    )
    start = partial(process, "worker", kafka_servers=cluster.servers)
    worker = start().wait_ready()
    with load(ledger, events=EVENTS, rate=RATE):
        await eventually(lambda: sum(ledger.counters().values()) > EVENTS / 3)
        cluster.kill_leader(ledger.topic(topics.EVENTS))

    await settled_under_care(ledger, worker, start)
    await asyncio.sleep(1)  # the last slates

    ledger.assert_exact()
