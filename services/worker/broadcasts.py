"""What every worker knows because it reads all of it: the catalogue."""

import structlog

from services.telemetry import WorkerMetrics
from services.worker.newcomers import NewTexts
from stream.catalogue import Catalogue
from stream.items import InvalidItem, parse_item

log = structlog.get_logger()


class CatalogueFeed:
    """
    Keeps a `Catalogue`, and the newest texts, as `items.v1` says.

    Its `take` is called in the follower's thread.
    """

    def __init__(self, catalogue: Catalogue, texts: NewTexts, metrics: WorkerMetrics) -> None:
        self._catalogue = catalogue
        self._texts = texts
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
                self._texts.delete(key.decode())
            else:
                self._put(value)
        except (InvalidItem, UnicodeDecodeError) as error:
            self._metrics.count_items_refused()
            log.error("item_refused", partition=partition, offset=offset, reason=str(error))
        self._metrics.set_catalogue_items(len(self._catalogue))

    def _put(self, value: bytes) -> None:
        before = self._catalogue.collisions
        item = parse_item(value)
        self._catalogue.put(item)
        self._texts.put(item)
        if self._catalogue.collisions > before:
            self._metrics.count_item_key_collision()
