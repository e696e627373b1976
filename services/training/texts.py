"""What items' texts say, as vectors beside the items of a training set."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from numpy.typing import NDArray

from features.items import items_as_of
from services.archive.items import as_item, export_items
from services.errors import CommandFailed
from services.logs.catalogue_log import ItemReader
from services.logs.columns import Column
from services.logs.rows import BadRow, format_of, open_rows
from services.text.encoder import DIM, TextEncoder
from services.training.dataset import Dataset
from stream.items import Item, item_text
from stream.topics import EVENTS, ITEMS


def read_catalogue(
    file: Path, mapping: Mapping[str, Column], *, separator: str = "/"
) -> dict[str, Item]:
    """
    The items in *file* (CSV, Parquet, JSON Lines), by item id; of two the later one counts.

    Args:
        mapping: Field of an item to its column, as for `headrace catalogue`.
        separator: Cuts a text of several categories.

    Raises:
        CommandFailed: If a row is not an item.
    """
    reader = ItemReader(mapping, separator=separator)
    items: dict[str, Item] = {}
    with open_rows(file, format_of(file, None), reader.columns) as log:
        log.require([column.name for column in mapping.values()])
        for row in log.rows:
            try:
                item, _ = reader.read(row)
            except BadRow as error:
                raise CommandFailed(
                    f"{file}, line {row.line} is not an item: {error}. "
                    "Columns of other names: --map-item title=NAME."
                ) from error
            items[item.item_id] = item
    return items


def archived_items(archive: Path, data: Dataset, holdout_from_ms: int) -> dict[str, Item]:
    """
    The items of *data* as they were when training ends, from the archive's history of items.v1.

    An item that comes later is as it was when someone first acted on it.

    Args:
        archive: What the events were read from.
        holdout_from_ms: What became known after that is not to be learnt from.

    Returns:
        Nothing if the archive has no items.
    """
    topic = archive / ITEMS
    if archive.name.endswith(EVENTS):
        topic = archive.with_name(archive.name.removesuffix(EVENTS) + ITEMS)
    if not topic.is_dir():
        return {}
    moments_ms = np.maximum(data.first_seen_ms(), holdout_from_ms).tolist()
    with TemporaryDirectory() as directory:
        history = Path(directory) / "items.parquet"
        export_items(topic, history)
        found = items_as_of(history, dict(zip(data.item_ids, moments_ms, strict=True)))
    return {item_id: as_item(item_id, fields) for item_id, fields in found.items()}


def text_vectors(
    item_ids: Sequence[str],
    items: Mapping[str, Item],
    cache_dir: Path,
    advanced: Callable[[int], None] = lambda texts: None,
) -> NDArray[np.float16]:
    """
    ``(V, 384)`` of *item_ids*, in their order: of length 1, or 0 for one that is not in *items*.

    Args:
        cache_dir: Where vectors are kept for the next time.
        advanced: Called with how many more texts are done.
    """
    vectors = np.zeros((len(item_ids), DIM), np.float16)
    places = [place for place, item_id in enumerate(item_ids) if item_id in items]
    if places:
        texts = [item_text(items[item_ids[place]]) for place in places]
        vectors[places] = TextEncoder(cache_dir).encode(texts, advanced=advanced)
    return vectors
