"""How Faust's consumer reaches a Kafka that wants TLS or a login."""

import ssl

from faust import SASLCredentials, SSLCredentials
from faust.types.auth import CredentialsT

from services.kafka.connection import KafkaConnection


def faust_credentials(kafka: KafkaConnection) -> CredentialsT | None:
    """
    What Faust needs beside the servers; None for connections in the clear.

    Raises:
        OSError: If the file of certificates cannot be read.
    """
    tls = ssl.create_default_context(cafile=kafka.ca_file) if kafka.encrypted else None
    if kafka.logs_in:
        return SASLCredentials(
            username=kafka.username,
            password=kafka.password,
            mechanism=kafka.mechanism,
            ssl_context=tls,
        )
    return SSLCredentials(tls) if tls is not None else None
