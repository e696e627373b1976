"""Titles of items, read from `items.v1` by the tools that show slates to people."""

import orjson

from services.display.rendering import safe_text
from services.errors import CommandFailed
from services.kafka.connection import KafkaConnection
from services.kafka.follow import Follower, NotCaughtUp


class Titles:
    """Follows the catalogue and keeps the titles. Unknown items are shown by their id."""

    def __init__(self) -> None:
        self._titles: dict[str, str] = {}

    def __len__(self) -> int:
        return len(self._titles)

    def take(self, key: bytes, value: bytes | None, partition: int, offset: int) -> None:
        """Take in one record of `items.v1`; what is not an item has no title."""
        item_id = key.decode(errors="replace")
        if value is None:
            self._titles.pop(item_id, None)
            return
        try:
            item = orjson.loads(value)
            self._titles[str(item["item_id"])] = str(item["title"])
        except (orjson.JSONDecodeError, KeyError, TypeError):
            return

    def of(self, item_id: str, width: int = 44) -> str:
        """The title, safe to print."""
        return safe_text(self._titles.get(item_id, item_id), width)

    def follow(self, kafka: KafkaConnection, topic: str, timeout_s: float = 30.0) -> Follower:
        """
        Start following *topic*, and return once caught up. Stop the follower when done.

        Raises:
            CommandFailed: If it cannot be read.
        """
        try:
            return Follower(kafka, topic, self.take).start(timeout_s)
        except NotCaughtUp as error:
            raise CommandFailed(str(error)) from error
