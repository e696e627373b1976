"""An item that no version was trained with is in slates seconds after it was put on `items.v1`."""

import asyncio
import time
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from typing import Any

import orjson
import pytest

from services.models.deployment import deploy
from services.models.serving import Serving
from services.text.encoder import TextEncoder
from stream import topics
from tests.builders import T0_MS
from tests.integration.ledger import Ledger
from tests.integration.support import Processes, Servers, eventually, fresh_environment, serving_of
from tests.tiny_model import build_tiny_version

pytestmark = pytest.mark.timeout(300)

TITLES = (
    "Red woollen winter hat", "Stainless steel water bottle", "Running shoes for men",
    "Gaming laptop with 16 GB", "Organic green tea", "Acoustic guitar", "Yoga mat",
    "Wooden train set for toddlers", "Face cream with sunscreen", "Mountain bike helmet",
    "Mechanical keyboard", "Cast iron frying pan", "Paperback crime novel", "Desk lamp",
    "Dog leash", "Garden hose", "Electric toothbrush", "Camping tent for four",
    "Leather wallet", "Noise cancelling headphones",
)  # fmt: skip
ITEMS = {f"i{number}": title for number, title in enumerate(TITLES)}


class Shop(Ledger):
    """A ledger with a catalogue, a model trained with its texts, and a worker."""

    serving: Serving
    directory: Path

    def put(self, item_id: str, title: str) -> None:
        value = orjson.dumps({"item_id": item_id, "title": title})
        self.producer.produce(self.topic(topics.ITEMS), key=item_id.encode(), value=value)
        self.flush()

    def deploy(self, seed: int) -> str:
        texts = TextEncoder(self.directory / "texts").encode(list(ITEMS.values()))
        out = self.directory / f"v{seed}"
        version = build_tiny_version(out, list(ITEMS), seed=seed, text_vectors=texts)
        return deploy(version, self.serving, say=lambda line: None)

    def slate_of_a_walker(self, user: str, step: int) -> dict[str, Any]:
        """The newest slate of *user*, who goes on to the item before the headphones again."""
        for number, item_id in enumerate(("i15", "i16", "i17", "i18")):
            at_ms = T0_MS + step * 240_000 + number * 60_000
            self.send(user_id=user, item_id=item_id, at_ms=at_ms)
        self.flush()
        slates = [slate for slate in self.slates() if slate["user_id"] == user]
        return slates[-1] if slates else {"items": [], "model": None}


@pytest.fixture(scope="module")
def shop(stack: Servers, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shop]:
    """One shop and one worker for all tests of this module."""
    directory = tmp_path_factory.mktemp("shop")
    with fresh_environment(stack, directory / "data") as environment:
        shop = Shop(environment)
        shop.directory = directory
        shop.serving = serving_of(stack, shop.prefix)
        for item_id, title in ITEMS.items():
            shop.put(item_id, title)
        shop.deploy(seed=1)
        processes = Processes(directory, environment)
        processes("worker", slate_size=5).wait_ready()
        yield shop
        processes.end()


async def test_a_new_item_is_in_slates_within_ten_seconds(shop: Shop) -> None:
    """Shoppers who are about to see the headphones see the new ones too, without any training."""
    steps = count()
    await eventually(lambda: "i19" in shown(shop.slate_of_a_walker("ada", next(steps))))

    shop.put("new", "Noise cancelling headphones, new edition")
    began = time.monotonic()

    await eventually(
        lambda: "new" in shown(shop.slate_of_a_walker("ada", next(steps))),
        timeout_s=10,
        every_s=0.5,
    )
    print(f"in a slate {time.monotonic() - began:.1f} s after it was put")  # noqa: T201


async def test_a_new_version_is_asked_about_new_items_anew(shop: Shop) -> None:
    """Its vectors are others, and it comes with a tower of its own."""
    shop.put("newer", "Noise cancelling headphones, limited edition")
    version = await asyncio.to_thread(shop.deploy, seed=2)
    steps = count()

    def is_shown() -> bool:
        slate = shop.slate_of_a_walker("bob", next(steps))
        return slate["model"] == {"name": "ranker", "version": version} and "newer" in shown(slate)

    await eventually(is_shown, timeout_s=30, every_s=0.5)
    towers = shop.serving.repository.parent / "item_tower"
    kept = {path.name for path in towers.iterdir() if path.is_dir()}
    assert kept == set(shop.serving.state().versions)


def shown(slate: dict[str, Any]) -> list[str]:
    return [item["item_id"] for item in slate["items"]]
