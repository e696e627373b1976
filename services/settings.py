"""Every setting of every process, read from ``HEADRACE_*`` once, at the entry point."""

import json
import re
from pathlib import Path
from typing import Literal

import platformdirs
from pydantic import Field, FilePath, SecretStr, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from services.kafka.connection import KafkaConnection, SaslMechanism, SecurityProtocol

# Feast reads the options of a connection between commas, from a line of YAML.
PLAIN_TEXT = r"^[^\s,'\"]*$"


class Settings(BaseSettings):
    """What every process needs: where the servers are, and how to speak of itself."""

    model_config = SettingsConfigDict(env_prefix="HEADRACE_", frozen=True, extra="ignore")

    kafka_servers: str = Field("127.0.0.1:9092", description="Kafka bootstrap servers.")
    kafka_security_protocol: SecurityProtocol = Field(
        "PLAINTEXT", description="TLS (SSL), a login (SASL), or both, on every connection to Kafka."
    )
    kafka_sasl_mechanism: SaslMechanism = Field("SCRAM-SHA-512", description="How to log in.")
    kafka_sasl_username: str = Field("", description="Kafka user.")
    kafka_sasl_password: SecretStr = Field(SecretStr(""), description="Its password.")
    kafka_ca_file: FilePath | None = Field(
        None, description="PEM certificates that sign Kafka's; the system's own if not set."
    )
    redis_address: str = Field("127.0.0.1:6379", description="Redis host:port.")
    redis_username: str = Field("", pattern=PLAIN_TEXT, description="Redis user (ACL).")
    redis_password: SecretStr = Field(SecretStr(""), description="Its password.")
    redis_tls: bool = Field(False, description="Speak TLS to Redis.")
    redis_ca_file: FilePath | None = Field(
        None, description="PEM certificates that sign Redis' own; the system's if not set."
    )
    triton_address: str = Field("127.0.0.1:8001", description="Triton gRPC host:port.")
    prefix: str = Field(
        "",
        pattern=r"^([A-Za-z0-9][A-Za-z0-9_.-]*)?$",
        max_length=64,
        description="Put before every topic, consumer group and Feast project name.",
    )
    data_dir: Path = Field(
        Path(platformdirs.user_data_dir("headrace")),
        description="State of the embedded servers, the archive and model versions.",
    )
    cache_dir: Path = Field(
        Path(platformdirs.user_cache_dir("headrace")),
        description="What `headrace setup` fetched: Kafka's jars, the model environment.",
    )
    ready_file: Path | None = Field(
        None, description="A long-running process touches this file once it is ready for work."
    )
    log_format: Literal["auto", "json", "console"] = Field(
        "auto", description="auto: console on a terminal, JSON elsewhere."
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        "info", description="Lines below it are not written."
    )
    log_key: SecretStr = Field(
        SecretStr(""),
        description="At debug users are hashed with it; unset: each process has a random one.",
    )
    metrics_host: str = Field(
        "127.0.0.1", description="Where /metrics listens; 0.0.0.0 inside a container."
    )

    @field_validator("redis_password")
    @classmethod
    def _fits_a_connection_string(cls, password: SecretStr) -> SecretStr:
        if not re.match(PLAIN_TEXT, password.get_secret_value()):
            raise ValueError("it may hold no blank, comma or quotation mark")
        return password

    @property
    def kafka(self) -> KafkaConnection:
        """How to reach Kafka."""
        return KafkaConnection(
            self.kafka_servers,
            protocol=self.kafka_security_protocol,
            mechanism=self.kafka_sasl_mechanism,
            username=self.kafka_sasl_username,
            password=self.kafka_sasl_password.get_secret_value(),
            ca_file=self.kafka_ca_file,
        )

    @property
    def redis_connection(self) -> str:
        """How to reach Redis, in Feast's form; it may hold a password, so it is never shown."""
        password = self.redis_password.get_secret_value()
        options = [
            *([f"username={json.dumps(self.redis_username)}"] if self.redis_username else []),
            *([f"password={json.dumps(password)}"] if password else []),
            *(["ssl=true"] if self.redis_tls else []),
            *([f"ssl_ca_certs={self.redis_ca_file}"] if self.redis_ca_file else []),
        ]
        return ",".join([self.redis_address, *options])

    @property
    def feast_project(self) -> str:
        """The prefixed project name; Feast takes letters, digits and underscores only."""
        escaped = self.prefix.replace("_", "__").replace("-", "_h").replace(".", "_d")
        return f"{escaped}headrace"

    @property
    def feast_registry(self) -> Path:
        """Where the Feast registry lies."""
        return self.data_dir / "feast" / "registry.db"

    @property
    def archive_dir(self) -> Path:
        """Where the archiver keeps ``events.v1/partition=p/<first>-<last>.parquet``."""
        return self.data_dir / "archive"


class WorkerSettings(Settings):
    """The stream worker."""

    worker_group: str = Field("headrace-worker", description="Kafka consumer group.")
    worker_instance_id: str = Field(
        "", description="Static group membership: set it to restart without a rebalance."
    )
    worker_session_timeout_s: float = Field(
        10.0, ge=1, le=300, description="A worker silent for so long loses its partitions."
    )
    worker_stop_timeout_s: float = Field(
        20.0,
        gt=0,
        le=600,
        description="A worker that takes longer to stop, because Kafka does not answer, just ends.",
    )
    slate_size: int = Field(20, ge=1, le=200, description="Items in a slate (k).")
    hide_bought: bool = Field(
        True, description="Leave out what the user has bought; a grocer would not."
    )
    surface: str = Field(
        "home", min_length=1, max_length=64, description="Where the slate is shown."
    )
    batch_size: int = Field(512, ge=1, le=4096, description="Most events in a micro-batch.")
    items_in_memory: int = Field(
        20_000, ge=1, le=10_000_000, description="Items whose statistics a worker keeps at hand."
    )
    batches_in_flight: int = Field(
        2, ge=1, le=8, description="Micro-batches at a time, each of partitions of its own."
    )
    max_ahead_s: float = Field(
        300.0, ge=0, description="How far an event may lie ahead of its record's Kafka timestamp."
    )
    model_name: str = Field("ranker", description="The ranker's name on Triton.")
    triton_deadline_ms: int = Field(
        500, ge=1, le=60_000, description="After this the slate comes from the live sources."
    )
    trace_share: float = Field(
        0.0, ge=0, le=1, description="Share of slates whose inputs are kept on trace.v1."
    )
    metrics_port: int = Field(0, ge=0, le=65535, description="Prometheus port; 0 is off.")
    otlp_endpoint: str = Field(
        "",
        pattern=r"^(https?://\S+)?$",
        description="OpenTelemetry collector (http://host:4318) for traces; unset: none are made.",
    )


class ArchiverSettings(Settings):
    """The archiver, which keeps the event log as Parquet."""

    archiver_group: str = Field("headrace-archiver", description="Kafka consumer group.")
    archive_roll_records: int = Field(50_000, ge=1, description="Records in a file, at most.")
    archive_roll_bytes: int = Field(
        32 * 1024 * 1024, ge=1024, description="Keys and values in a file, at most."
    )
    archive_roll_s: float = Field(30.0, gt=0, description="Age of an unfinished file, at most.")
    metrics_port: int = Field(0, ge=0, le=65535, description="Prometheus port; 0 is off.")


class TrainerSettings(Settings):
    """The trainer, which goes on from the serving version on a schedule."""

    trainer_every_s: float = Field(86_400, gt=0, description="From one run to the next.")
    trainer_days: float = Field(7, gt=0, description="What counts as new: so much of the newest.")
    trainer_history_days: float = Field(
        90, gt=0, description="How far back the log is read: histories, and what is replayed."
    )
    trainer_holdout: str = Field(
        "10%", description="Of the new part, what each version is judged on before it learns it."
    )
    metrics_port: int = Field(0, ge=0, le=65535, description="Prometheus port; 0 is off.")


class ModelSettings(Settings):
    """Deploying models on Triton."""

    model_name: str = Field("ranker", description="The ranker's name on Triton.")
    model_repository: Path | None = Field(
        None, description="Triton's model repository; by default <data_dir>/models."
    )
    triton_device: Literal["cpu", "gpu"] = Field("cpu", description="Where Triton runs models.")
    triton_instances: int = Field(
        1,
        ge=1,
        le=64,
        description="Copies of the ranker that compute at once, each with its own memory.",
    )
