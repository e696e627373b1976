"""How a client reaches Kafka: every one of ours, librdkafka's and Faust's, begins here."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

SecurityProtocol = Literal["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"]
SaslMechanism = Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"]


@dataclass(frozen=True, slots=True)
class KafkaConnection:
    """
    Bootstrap servers, and how to speak to them; as text it is the servers alone.

    Attributes:
        servers: ``host:port``, separated by commas.
        protocol: Whether connections are encrypted, and whether they begin with a login.
        mechanism: How to log in.
        ca_file: PEM certificates to trust; None: those of the system.
    """

    servers: str
    protocol: SecurityProtocol = "PLAINTEXT"
    mechanism: SaslMechanism = "SCRAM-SHA-512"
    username: str = ""
    password: str = field(default="", repr=False)
    ca_file: Path | None = None

    def __str__(self) -> str:
        return self.servers

    @property
    def encrypted(self) -> bool:
        """Whether connections are TLS."""
        return self.protocol.endswith("SSL")

    @property
    def logs_in(self) -> bool:
        """Whether connections begin with a login."""
        return self.protocol.startswith("SASL")

    def config(self) -> dict[str, Any]:
        """The part of librdkafka's configuration that says where to, and how."""
        config: dict[str, Any] = {"bootstrap.servers": self.servers}
        if self.protocol != "PLAINTEXT":
            config["security.protocol"] = self.protocol
        if self.encrypted and self.ca_file is not None:
            config["ssl.ca.location"] = str(self.ca_file)
        if self.logs_in:
            config |= {
                "sasl.mechanism": self.mechanism,
                "sasl.username": self.username,
                "sasl.password": self.password,
            }
        return config
