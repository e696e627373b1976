"""An item that no version was trained with is in slates seconds after it was put on `items.v1`."""

import time
from collections.abc import Iterator
from pathlib import Path

import orjson
import pytest

from services.models.deployment import deploy
from services.models.serving import Serving
from services.text.encoder import TextEncoder
from stream import topics
from tests.builders import T0_MS
from tests.integration.ledger import Ledger
from tests.integration.support import Processes, Servers, eventually, fresh_environment
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


@pytest.fixture
def shop(stack: Servers, tmp_path: Path) -> Iterator[Ledger]:
    """A catalogue, a version trained with its texts, and a worker."""
    with fresh_environment(stack, tmp_path / "data") as environment:
        shop = Ledger(environment)
        for item_id, title in ITEMS.items():
            put(shop, item_id, title)
        texts = TextEncoder(tmp_path / "texts").encode(list(ITEMS.values()))
        version = build_tiny_version(tmp_path / "version", list(ITEMS), text_vectors=texts)
        serving = Serving(
            repository=stack.models_dir / "ranker",
            triton_address=stack.triton,
            kafka_servers=stack.kafka,
            prefix=shop.prefix,
        )
        deploy(version, serving, say=lambda line: None)
        processes = Processes(tmp_path, environment)
        processes("worker", slate_size=5).wait_ready()
        yield shop
        processes.end()


def put(shop: Ledger, item_id: str, title: str) -> None:
    value = orjson.dumps({"item_id": item_id, "title": title})
    shop.producer.produce(shop.topic(topics.ITEMS), key=item_id.encode(), value=value)
    shop.flush()


async def test_a_new_item_is_in_slates_within_ten_seconds(shop: Ledger) -> None:
    """Shoppers who are about to see the headphones see the new ones too, without any training."""
    for number, item_id in enumerate(("i15", "i16", "i17", "i18")):
        shop.send(user_id="ada", item_id=item_id, at_ms=T0_MS + number * 60_000)
    shop.flush()
    await eventually(lambda: any("i19" in shown(slate) for slate in shop.slates()))

    put(shop, "new", "Noise cancelling headphones, new edition")
    began = time.monotonic()
    clicks = iter(range(1000))

    def is_shown() -> bool:
        at_ms = T0_MS + 240_000 + next(clicks)
        event = shop.send(user_id="ada", item_id="i18", at_ms=at_ms)
        shop.flush()
        slates = [s for s in shop.slates() if s["user_id"] == "ada"]
        return event is not None and "new" in shown(slates[-1])

    await eventually(is_shown, timeout_s=10, every_s=0.5)
    print(f"in a slate {time.monotonic() - began:.1f} s after it was put")  # noqa: T201


def shown(slate: dict) -> list[str]:
    return [item["item_id"] for item in slate["items"]]
