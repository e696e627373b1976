"""Where a model is deployed: its folder in the repository, its Triton, its topic."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

from services.kafka.connection import KafkaConnection
from services.models.config import Placement
from services.models.state import read_state
from services.settings import ModelSettings
from stream import topics
from stream.deployments import Deployment


@dataclass(frozen=True)
class Serving:
    """Where a model is deployed."""

    repository: Path  # of the one model: it holds config.pbtxt and the version directories
    triton_address: str
    kafka: KafkaConnection
    prefix: str
    placement: Placement = field(default_factory=Placement)

    @classmethod
    def of(cls, settings: ModelSettings, repository: Path | None = None) -> Self:
        """Where *settings* say; *repository* holds all models and takes the place of theirs."""
        models = repository or settings.model_repository or settings.data_dir / "models"
        return cls(
            repository=models / settings.model_name,
            triton_address=settings.triton_address,
            kafka=settings.kafka,
            prefix=settings.prefix,
            placement=Placement(settings.triton_device, settings.triton_instances),
        )

    @property
    def model(self) -> str:
        """The model's name on Triton."""
        return self.repository.name

    def topic(self, name: str) -> str:
        """The full name of a topic."""
        return topics.with_prefix(self.prefix, name)

    def state(self) -> Deployment | None:
        """The model's state now. Raises `CommandFailed` if Kafka cannot be reached."""
        return read_state(self.kafka, self.topic(topics.DEPLOYMENTS), self.model)
