"""Kafka's jars are the locked ones, or they are not used."""

import hashlib
from dataclasses import replace
from pathlib import Path

import pytest

from services.embedded import jars
from services.errors import CommandFailed

RIGHT = b"the jar"
JAR = jars.Jar("org.example", "thing", "1.0", hashlib.sha256(RIGHT).hexdigest())


@pytest.fixture
def served(monkeypatch: pytest.MonkeyPatch) -> dict[str, bytes]:
    """What the repository answers with, by artifact, in place of the network."""
    contents = {"thing": RIGHT}

    def attempt(jar: jars.Jar, scratch: Path) -> Path:
        path = scratch / jar.file_name
        path.write_bytes(contents[jar.artifact])
        return path

    monkeypatch.setattr(jars, "_attempt", attempt)
    return contents


def test_the_lock_has_one_broker_and_a_checksum_for_every_jar() -> None:
    """With another slf4j binding, kafka-clients 3.8 is resolved and the broker dies."""
    locked = jars.locked()

    versions = {jar.artifact: jar.version for jar in locked}
    assert versions["kafka_2.13"] == versions["kafka-clients"] == "4.1.2"
    assert "slf4j-simple" in versions and "log4j-slf4j-impl" not in versions
    assert all(len(jar.sha256) == 64 for jar in locked)
    assert len({jar.file_name for jar in locked}) == len(locked)


def test_a_right_jar_is_kept_and_not_fetched_again(
    tmp_path: Path, served: dict[str, bytes]
) -> None:
    """A second `headrace setup` downloads nothing."""
    said: list[jars.Jar] = []

    jars.fetch([JAR], tmp_path / "jars", said.append)

    assert jars.wrong([JAR], tmp_path / "jars") == []
    assert said == [JAR]


def test_a_jar_with_another_checksum_is_refused_and_not_kept(
    tmp_path: Path, served: dict[str, bytes]
) -> None:
    """It may have been replaced on the way; it would be run on the user's machine."""
    served["thing"] = b"another jar"

    with pytest.raises(CommandFailed, match="SHA-256"):
        jars.fetch([JAR], tmp_path / "jars", lambda jar: None)

    assert list(tmp_path.rglob("*.jar")) == []


def test_a_damaged_jar_is_found_and_replaced(tmp_path: Path, served: dict[str, bytes]) -> None:
    """Half a file from a full disk looks whole to a broker, until it does not start."""
    (tmp_path / JAR.file_name).write_bytes(RIGHT[:3])

    assert jars.missing([JAR], tmp_path) == []
    assert jars.wrong([JAR], tmp_path) == [JAR]
    jars.fetch([JAR], tmp_path, lambda jar: None)

    assert (tmp_path / JAR.file_name).read_bytes() == RIGHT


def test_an_unreachable_repository_is_one_line_with_the_next_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The commonest first experience behind a company's proxy."""

    def attempt(jar: jars.Jar, scratch: Path) -> Path:
        raise ConnectionError("certificate verify failed")

    monkeypatch.setattr(jars, "_attempt", attempt)

    with pytest.raises(CommandFailed, match=r"certificate verify failed.*REQUESTS_CA_BUNDLE"):
        jars.fetch([JAR, replace(JAR, artifact="other")], tmp_path, lambda jar: None)
