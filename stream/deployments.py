"""`deployments.v1`: which version of a model serves. One compacted record a model."""

from datetime import datetime

from pydantic import BaseModel, ConfigDict


class Deployment(BaseModel):
    """
    What ``headrace model deploy`` announces and every worker follows.

    The popular items travel with it, so that a worker has a day-zero slate even while Triton is
    down and without a file system in common with it.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    schema_version: int = 1
    model: str
    version: str  # a Triton version: the decimal name of its directory
    deployed_at: datetime
    popular: tuple[str, ...] = ()  # item_ids, best first, at most 200
