"""How settings become connections, and that a password is in none of their words."""

from pathlib import Path

import pytest
from pydantic import ValidationError

from features.importing import import_feast
from services.kafka.connection import KafkaConnection
from services.settings import Settings

HUSH = "hush-1e5=\\/:&"


@pytest.fixture
def ca_file(tmp_path: Path) -> Path:
    """Something that is there: a setting that names a missing file is refused at once."""
    (tmp_path / "ca.pem").touch()
    return tmp_path / "ca.pem"


def test_unset_settings_connect_in_the_clear() -> None:
    """The embedded stack asks for no password."""
    settings = Settings()

    assert settings.kafka.config() == {"bootstrap.servers": settings.kafka_servers}
    assert settings.redis_connection == settings.redis_address


def test_a_login_over_tls_is_what_librdkafka_calls_it(ca_file: Path) -> None:
    """Names that it does not know, it refuses."""
    settings = Settings(
        kafka_servers="kafka:9092",
        kafka_security_protocol="SASL_SSL",
        kafka_sasl_username="shop",
        kafka_sasl_password=HUSH,
        kafka_ca_file=ca_file,
    )

    assert settings.kafka.config() == {
        "bootstrap.servers": "kafka:9092",
        "security.protocol": "SASL_SSL",
        "ssl.ca.location": str(ca_file),
        "sasl.mechanism": "SCRAM-SHA-512",
        "sasl.username": "shop",
        "sasl.password": HUSH,
    }


def test_tls_alone_sends_no_password() -> None:
    """A user's name left in the environment is no login."""
    kafka = KafkaConnection("kafka:9093", protocol="SSL", username="shop", password=HUSH)

    assert kafka.config() == {"bootstrap.servers": "kafka:9093", "security.protocol": "SSL"}


@pytest.mark.parametrize("password", [HUSH, "12e4", "true", "null", "#[]{}"])
def test_redis_gets_the_password_as_it_is(password: str, ca_file: Path) -> None:
    """Feast reads each option as JSON where it can: a number would be sent as another text."""
    settings = Settings(
        redis_address="redis:6380",
        redis_username="shop",
        redis_password=password,
        redis_tls=True,
        redis_ca_file=ca_file,
    )

    import_feast()
    from feast.infra.online_stores.redis import RedisOnlineStore

    nodes, options = RedisOnlineStore._parse_connection_string(settings.redis_connection)

    assert nodes == [{"host": "redis", "port": "6380"}]
    assert options == {
        "username": "shop",
        "password": password,
        "ssl": True,
        "ssl_ca_certs": str(ca_file),
    }


@pytest.mark.parametrize("password", ["a,ssl=false", 'a"b', "a b"])
def test_a_password_that_would_be_cut_is_refused_unseen(password: str) -> None:
    """Half of it sent would be half of it in somebody's log."""
    with pytest.raises(ValidationError) as refused:
        Settings(redis_password=password)

    assert password not in refused.value.errors()[0]["msg"]


def test_no_password_is_in_a_repr() -> None:
    """Whatever prints settings or a connection prints no secret."""
    settings = Settings(kafka_sasl_password=HUSH, redis_password=HUSH)

    assert "hush" not in f"{settings!r} {settings} {settings.kafka!r} {settings.kafka}"
