"""What the pipeline works with: the servers, each as a protocol, and the shop's rules."""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Protocol

from stream import topics
from stream.catalogue import Catalogue
from stream.deployments import Deployment
from stream.marks import OwnMarks
from stream.ranking import Answer, Ranker
from stream.records import Outgoing
from stream.state import Dependencies, Replacement


class RowStore(Protocol):
    """
    Users' rows and partitions' marks: the only state there is.

    A write is a compare-and-set, all of it or nothing, and returns when the store has acknowledged
    it. It raises `StateMoved`, and has written nothing, if any value is not the expected one, or if
    what it comes *after* is gone; it returns what the next one may name as that.
    """

    async def read(
        self, user_ids: Sequence[str], partitions: Sequence[int]
    ) -> tuple[list[bytes | None], list[bytes | None]]:
        """Rows and marks, in the order asked; None where there is none."""
        ...

    async def write_rows(
        self, rows: Mapping[str, Replacement], expected_marks: Mapping[int, str]
    ) -> Dependencies:
        """Replace rows while the marks of their partitions are still the expected ones."""
        ...

    async def write_marks(
        self, marks: Mapping[int, Replacement], after: Dependencies
    ) -> Dependencies:
        """Replace marks, after the rows that they speak for."""
        ...


class ReadItems(Protocol):
    """Reads items' rows: statistics that other users' events have made."""

    async def __call__(self, item_keys: Sequence[int]) -> list[bytes | None]:
        """Rows in the order asked; None where there is none."""
        ...


class Publish(Protocol):
    """Publishes records and returns when the broker has acknowledged every one."""

    async def __call__(self, records: Sequence[Outgoing]) -> None: ...


class Observer(Protocol):
    """What the pipeline tells of itself; the names of the metrics are the observer's."""

    def observe_stage(self, stage: str, seconds: float) -> None: ...
    def observe_batch(self, events: int) -> None: ...
    def observe_event_to_result(self, seconds: float) -> None: ...
    def count_events(self, outcome: str, count: int = 1) -> None: ...
    def count_slates(self, strategy: str, count: int) -> None: ...
    def count_degraded(self, slates: int) -> None: ...
    def observe_slate_age(self, seconds: float) -> None: ...


class VersionObserver(Protocol):
    """What the pipeline tells of each version of the model."""

    def answered(self, version: str, seconds: float) -> None: ...
    def failed(self, version: str, kind: str) -> None: ...
    def fell_back(self, version: str) -> None: ...
    def count_slates(self, version: str, count: int) -> None: ...


class Shadow(Protocol):
    """Asks a version that serves nobody the same, later, and compares; see `recommend`."""

    def compare(self, answers: Sequence[Answer]) -> None:
        """Take note of *answers* and return at once."""
        ...


@dataclass(frozen=True)
class Rules:
    """What the shop decides."""

    slate_size: int = 20
    surface: str = "home"
    hide_bought: bool = True
    max_ahead_ms: int = 300_000
    ranker_deadline_s: float = 0.5
    history_length: int = 128  # actions handed to the ranker, which takes what its model reads
    partitions: int = topics.EVENT_PARTITIONS
    trace_share: float = 0.0  # of slates, whose inputs go to trace.v1


@dataclass(frozen=True)
class Pipeline:
    """
    Everything that `stream.recommend.recommend` works with, made once by the worker.

    Attributes:
        settling: Held by the micro-batch whose slates are out and whose mark is not, so that there
            is one at most: a crash repeats its slates and no other's.
    """

    store: RowStore
    marks: OwnMarks
    ranker: Ranker
    publish: Publish
    catalogue: Catalogue
    deployment: Callable[[], Deployment | None]  # the model's state now
    versions: VersionObserver
    shadow: Shadow
    items: ReadItems
    trending: Callable[[], Sequence[int]]  # item keys, best first
    rules: Rules
    observe: Observer
    now: Callable[[], datetime]
    settling: asyncio.Lock = field(default_factory=asyncio.Lock)
