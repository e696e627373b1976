"""What there is before the first event: a catalogue, a model that serves, and users' histories."""

import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import orjson
import torch
from numpy.typing import NDArray

from model_repo.ranker.network import Network, Shape
from services import states
from services.kafka.publishing import Publisher
from services.models import deployment
from services.models.serving import Serving
from services.settings import Settings
from services.training.options import TrainingOptions
from services.training.pipeline import Trained
from services.training.release import write_version
from services.training.vocabulary import Vocabulary
from stream import topics
from stream.event_types import EventType
from stream.history import ENTRY, LIMITS, UserRow
from stream.keys import item_key, partition_of
from stream.state import Replacement
from stream.topics import with_prefix

ROWS_AT_ONCE = 1000


def write_random_version(
    directory: Path, item_ids: Sequence[str], *, dim: int, history_length: int
) -> Path:
    """A version of the shape that training gives, with random weights: they take as long."""
    torch.manual_seed(0)
    options = TrainingOptions(dim=dim, history_length=history_length, tokens=history_length)
    by_key = {item_key(one): one for one in item_ids}
    keys = sorted(by_key)
    vocabulary = Vocabulary(
        item_ids=tuple(by_key[key] for key in keys),
        item_keys=np.array(keys, np.int64),
        popularity=np.linspace(1, 0, len(keys), dtype=np.float32),
    )
    shape = Shape(
        items=len(keys),
        dim=dim,
        layers=options.layers,
        heads=options.heads,
        tokens=options.tokens,
        copy_heads=options.copy_heads,
    )
    return write_version(directory, Trained(Network(shape), vocabulary, {}, 0, 0, 0), options)


def put_catalogue(settings: Settings, item_ids: Sequence[str]) -> None:
    """Publish the items, and wait until Kafka has them."""
    topic = with_prefix(settings.prefix, topics.ITEMS)
    with Publisher(settings.kafka) as publisher:
        for item_id in item_ids:
            value = orjson.dumps({"item_id": item_id, "title": f"The {item_id}", "price": 12.5})
            publisher.send(topic, item_id.encode(), value)


def deploy(version: Path, serving: Serving) -> Path:
    """Have *version* serve everybody; where it lies now."""
    number = deployment.deploy(version, serving, say=lambda line: None)
    return serving.repository / number


def fill_histories(
    settings: Settings, user_ids: Sequence[str], item_ids: Sequence[str], *, length: int
) -> None:
    """
    Give every user *length* actions, written as rows: a million events of history would take
    minutes to come in through Kafka.
    """
    store = states.open_live(settings)
    keys = np.array([item_key(one) for one in item_ids], np.int64)
    rng = np.random.default_rng(2)
    for first in range(0, len(user_ids), ROWS_AT_ONCE):
        users = user_ids[first : first + ROWS_AT_ONCE]
        rows = {user: _row(user, keys, length, rng) for user in users}
        store.write_rows(
            {user: Replacement(row.to_bytes(), "", row.applied) for user, row in rows.items()}
        )
    store.close()


def _row(user: str, keys: NDArray[np.int64], length: int, rng: np.random.Generator) -> UserRow:
    entries = np.zeros(min(length, LIMITS["interactions"]), ENTRY)
    now_ms = time.time_ns() // 1_000_000
    entries["timestamp_ms"] = now_ms - np.sort(rng.integers(1, 86_400_000, len(entries)))[::-1]
    entries["offset"] = np.arange(len(entries)) - len(entries)
    entries["event_key"] = rng.integers(1, 2**63, len(entries))
    entries["item_key"] = rng.choice(keys, len(entries))
    entries["event_type"] = rng.choice([EventType.VIEW, EventType.CLICK], len(entries))
    entries["price"] = 12.5
    row = UserRow()
    partition = partition_of(user.encode(), topics.EVENT_PARTITIONS)
    return UserRow({**row.packed, "interactions": entries.tobytes()}, partition=partition)
