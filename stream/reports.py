"""`reports.v1`: what each worker sees of each version of the model, every other second."""

from datetime import datetime

from pydantic import BaseModel, ConfigDict, Field


class VersionReport(BaseModel):
    """One version as one worker has seen it since the worker started."""

    model_config = ConfigDict(frozen=True)

    slates: int
    requests: int
    failures: dict[str, int] = Field(description="Requests without a usable answer, by reason.")
    recent_ms: tuple[float, ...] = Field(description="The newest answers' times, oldest first.")
    compared: int = Field(description="Users for whom it was asked as a shadow.")
    dropped: int = Field(description="Micro-batches that, as a shadow, it was too slow for.")
    overlap_at_20: float | None = Field(description="With the serving version; of the newest 200.")
    correlation: float | None = Field(description="Spearman's, likewise.")


class WorkerReport(BaseModel):
    """One worker."""

    model_config = ConfigDict(frozen=True)

    worker: str
    model: str
    reported_at: datetime
    revision: int | None = Field(description="Of deployments.v1 that it follows; null: none.")
    versions: dict[str, VersionReport]
