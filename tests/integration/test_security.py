"""``headrace up --secure``: logins over TLS to Kafka and Redis, and nobody else is let in."""

import os
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import orjson
import pytest
import redis
from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient
from redis.backoff import NoBackoff
from redis.retry import Retry

from services.connection import connect, running_stack
from services.kafka.connection import KafkaConnection
from services.kafka.publishing import Publisher
from services.kafka.slates import Slate, poll_slates, whole_topic
from services.settings import Settings
from stream import topics
from tests.builders import event_json
from tests.integration.support import HEADRACE, eventually

pytestmark = pytest.mark.usefixtures("installed")


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Of a secured stack with one worker. Triton has no part in this: slates do without."""
    data_dir = tmp_path_factory.mktemp("secure") / "data"
    log = data_dir.with_suffix(".log")
    environment = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith("HEADRACE_") or name == "HEADRACE_CACHE_DIR"
    }
    with log.open("wb") as output:
        up = subprocess.Popen(
            [HEADRACE, "up", "--brief", "--secure", "--no-archiver", "--data-dir", data_dir],
            env={**environment, "HEADRACE_TRITON_ADDRESS": "127.0.0.1:1"},
            stdout=output,
            stderr=output,
        )
    waiting = [HEADRACE, "status", "--wait", "--timeout", "120", "--data-dir", data_dir]
    try:
        ready = subprocess.run(waiting, env=environment, capture_output=True, check=False)
        assert ready.returncode == 0, log.read_text()
        yield data_dir
    finally:
        up.terminate()
        up.wait(60)


@pytest.fixture
def settings(data_dir: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """As every command finds them: in the running stack."""
    for name in ("KAFKA_SERVERS", "REDIS_ADDRESS", "PREFIX"):
        monkeypatch.delenv(f"HEADRACE_{name}", raising=False)
    return connect(Settings, data_dir=data_dir)


async def test_an_event_goes_in_and_a_slate_comes_out(settings: Settings) -> None:
    """Every client on the way has to log in: ours, Faust's and Feast's."""
    event = event_json(user_id="ada")
    slates, _ = whole_topic(settings.kafka, topics.RECOMMENDATIONS, from_beginning=True)

    with Publisher(settings.kafka) as publisher:
        publisher.send(topics.EVENTS, b"ada", orjson.dumps(event))

    def received() -> list[Slate]:
        return list(poll_slates(slates, 0.5))

    (slate,) = await eventually(received)
    slates.close()
    assert slate.user_id == "ada"


def test_kafka_serves_nobody_without_the_password(settings: Settings) -> None:
    """In the clear, with TLS alone, or with a guess."""
    right = settings.kafka
    strangers = (
        KafkaConnection(right.servers),
        replace(right, protocol="SSL"),
        replace(right, password="guess"),
    )

    for stranger in strangers:
        with pytest.raises(KafkaException):
            AdminClient({**stranger.config(), "log_level": 0}).list_topics(timeout=2)


def test_a_client_refuses_a_kafka_that_another_authority_vouches_for(settings: Settings) -> None:
    """Otherwise whoever takes the port is told the password."""
    trusting = replace(settings.kafka, ca_file=None)

    with pytest.raises(KafkaException):
        AdminClient({**trusting.config(), "log_level": 0}).list_topics(timeout=2)


def test_redis_serves_nobody_without_the_password(settings: Settings, data_dir: Path) -> None:
    """Nor does the port behind the one that speaks TLS, nor what empties or reconfigures it."""
    host, port = settings.redis_address.split(":")
    stack = running_stack(data_dir)
    assert stack is not None and settings.redis_ca_file is not None
    behind = int(stack["parts"]["redis"]["address"].rpartition(":")[2])
    once = {"retry": Retry(NoBackoff(), 0), "socket_timeout": 5}
    tls = {**once, "ssl": True, "ssl_ca_certs": str(settings.redis_ca_file)}
    password = settings.redis_password.get_secret_value()
    ours = redis.Redis(host, int(port), username="headrace", password=password, **tls)

    assert ours.ping()
    with pytest.raises(redis.AuthenticationError):
        redis.Redis(host, int(port), **tls).ping()
    with pytest.raises(redis.AuthenticationError):
        redis.Redis(host, int(port), username="headrace", password="guess", **tls).ping()
    with pytest.raises(redis.AuthenticationError):
        redis.Redis(host, behind, **once).ping()
    with pytest.raises(redis.ConnectionError):
        redis.Redis(host, int(port), **once).ping()
    with pytest.raises(redis.exceptions.NoPermissionError):
        ours.flushall()


def test_passwords_are_in_no_log_and_no_file_that_others_may_read(
    settings: Settings, data_dir: Path
) -> None:
    """Logs travel further than data directories do."""
    passwords = [
        settings.kafka_sasl_password.get_secret_value().encode(),
        settings.redis_password.get_secret_value().encode(),
    ]

    open_to_others = [
        file
        for file in data_dir.rglob("*")
        if file.is_file()
        and any(password in file.read_bytes() for password in passwords)
        and (file.stat().st_mode & 0o077 or file.suffix == ".log")
    ]

    assert all(passwords)
    assert open_to_others == []
