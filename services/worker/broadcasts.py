"""What every worker knows because it reads all of it: the catalogue, and which model serves."""

import structlog

from services.telemetry import WorkerMetrics
from stream.catalogue import Catalogue
from stream.deployments import Deployment
from stream.items import InvalidItem, parse_item

log = structlog.get_logger()


class CatalogueFeed:
    """Keeps a `Catalogue` as `items.v1` says. Its `take` is called in the follower's thread."""

    def __init__(self, catalogue: Catalogue, metrics: WorkerMetrics) -> None:
        self._catalogue = catalogue
        self._metrics = metrics

    def take(self, key: bytes, value: bytes | None, partition: int, offset: int) -> None:
        """
        Put, replace or delete one item.

        What is not an item is left out and said, not copied to dead letters: every worker reads
        it at every start, and the compacted topic itself keeps it under its key.
        """
        try:
            if value is None:
                self._catalogue.delete(key.decode())
            else:
                self._put(value)
        except (InvalidItem, UnicodeDecodeError) as error:
            self._metrics.count_items_refused()
            log.error("item_refused", partition=partition, offset=offset, reason=str(error))
        self._metrics.set_catalogue_items(len(self._catalogue))

    def _put(self, value: bytes) -> None:
        before = self._catalogue.collisions
        self._catalogue.put(parse_item(value))
        if self._catalogue.collisions > before:
            self._metrics.count_item_key_collision()


class DeploymentFeed:
    """Remembers which version of *model* `deployments.v1` says is to serve."""

    def __init__(self, model: str, metrics: WorkerMetrics) -> None:
        self._model = model
        self._metrics = metrics
        self._current: Deployment | None = None

    def current(self) -> Deployment | None:
        """The version in use now; None while there is no model."""
        return self._current

    def take(self, key: bytes, value: bytes | None, partition: int, offset: int) -> None:
        """Follow one announcement; a null value withdraws the model."""
        if key.decode(errors="replace") != self._model:
            return
        try:
            self._current = None if value is None else Deployment.model_validate_json(value)
        except ValueError as error:  # keep what serves
            log.error("deployment_refused", offset=offset, reason=str(error)[:500])
            return
        if self._current is not None:
            self._metrics.follow_deployment(self._model, self._current.version)
            log.info("deployment_followed", model=self._model, version=self._current.version)
