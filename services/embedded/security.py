"""Certificates and passwords of ``headrace up --secure``: made once, kept in the data directory."""

import json
import secrets
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import trustme
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)

from services.embedded.ports import HOST
from services.kafka.connection import KafkaConnection

USER = "headrace"


@dataclass(frozen=True, slots=True)
class Security:
    """
    Attributes:
        ca_file: The authority that clients trust, PEM.
        server_file: Key (PKCS 8, which Kafka insists on) and certificate of the servers, PEM.
        kafka_password, redis_password: Of `USER`; letters, digits, ``-`` and ``_``.
    """

    ca_file: Path
    server_file: Path
    kafka_password: str
    redis_password: str

    @classmethod
    def of(cls, directory: Path) -> Self:
        """What lies in *directory*, or new ones that only this user may read."""
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        passwords = directory / "passwords.json"
        ca_file, server_file = directory / "ca.pem", directory / "server.pem"
        if not passwords.exists():
            _issue(ca_file, server_file)
            made = {name: secrets.token_urlsafe(24) for name in ("kafka", "redis")}
            write_private(passwords, json.dumps(made))  # last: it says that the others are there
        known = json.loads(passwords.read_text())
        return cls(ca_file, server_file, known["kafka"], known["redis"])

    def kafka(self, servers: str) -> KafkaConnection:
        """How to reach the secured Kafka at *servers*."""
        return KafkaConnection(
            servers,
            protocol="SASL_SSL",
            mechanism="PLAIN",
            username=USER,
            password=self.kafka_password,
            ca_file=self.ca_file,
        )

    @property
    def kafka_settings(self) -> dict[str, str]:
        """The settings that lead a process to the secured Kafka, beside its address."""
        return {
            "kafka_security_protocol": "SASL_SSL",
            "kafka_sasl_mechanism": "PLAIN",
            "kafka_sasl_username": USER,
            "kafka_sasl_password": self.kafka_password,
            "kafka_ca_file": str(self.ca_file),
        }

    @property
    def redis_settings(self) -> dict[str, str]:
        """The settings that lead a process to the secured Redis, beside its address."""
        return {
            "redis_username": USER,
            "redis_password": self.redis_password,
            "redis_tls": "true",
            "redis_ca_file": str(self.ca_file),
        }


def write_private(file: Path, text: str) -> None:
    """Write *text* where only this user may read it."""
    file.unlink(missing_ok=True)
    file.touch(mode=0o600)
    file.write_text(text)


def _issue(ca_file: Path, server_file: Path) -> None:
    authority = trustme.CA(organization_name="headrace up --secure")
    server = authority.issue_cert(HOST, "localhost")
    key = load_pem_private_key(server.private_key_pem.bytes(), password=None)
    pkcs8 = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    chain = b"".join(blob.bytes() for blob in server.cert_chain_pems)
    write_private(server_file, (pkcs8 + chain).decode())
    write_private(ca_file, authority.cert_pem.bytes().decode())
