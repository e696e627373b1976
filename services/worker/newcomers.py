"""
Items that the model has never seen, in slates within seconds and without training.

Texts of new items come from `items.v1`. In the background they become vectors: MiniLM (Triton's
`text_encoder`) reads them, and the item tower of each version in use says which of them the
version does not know, and where among its items they belong. Ranking then scores them with one
small matrix product.
"""

import asyncio
import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import structlog
from numpy.typing import NDArray

from stream.items import Item, item_text
from stream.keys import item_key
from stream.newcomers import Newcomers, with_newcomers
from stream.ranking import Ranked, Ranker, RankerInput, RankerUnavailable

MOST = 10_000  # texts kept, the newest; their product with a full batch takes some 10 ms
CHECKED_AT_ONCE = 1000
READ_AT_ONCE = 32  # texts: some 80 ms of a core that ranking wants too
PAUSE_S = 0.25
PAUSE_AFTER_FAILURE_S = 2.0

log = structlog.get_logger()


class Towers(Protocol):
    """What is asked of Triton; all of it raises `RankerUnavailable`."""

    async def knows(self, version: str, keys: NDArray[np.int64]) -> NDArray[np.bool_]:
        """``(N,)``: which items *version* was trained with."""
        ...

    async def read(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Text vectors ``(N, 384)``."""
        ...

    async def vectors(
        self, version: str, keys: NDArray[np.int64], texts: NDArray[np.float32]
    ) -> NDArray[np.float32]:
        """Item vectors ``(N, D)`` of text vectors ``(N, 384)``."""
        ...


class NewTexts:
    """The newest items' texts by item key. Written in a follower's thread, read in the loop's."""

    def __init__(self, most: int = MOST) -> None:
        self._most = most
        self._texts: OrderedDict[int, str] = OrderedDict()
        self._lock = threading.Lock()
        self.revision = 0  # rises with each change

    def put(self, item: Item) -> None:
        """Take note of an item. One that is there already is no newer for it."""
        key, text = item_key(item.item_id), item_text(item)
        with self._lock:
            if self._texts.get(key) == text:
                return
            self._texts[key] = text
            if len(self._texts) > self._most:
                self._texts.popitem(last=False)
            self.revision += 1

    def delete(self, item_id: str) -> None:
        """Forget an item."""
        with self._lock:
            self._texts.pop(item_key(item_id), None)
            self.revision += 1

    def newest_first(self) -> dict[int, str]:
        """All texts by item key."""
        with self._lock:
            return dict(reversed(self._texts.items()))


@dataclass
class _Version:
    """What one version has said, of items whose text is kept."""

    revision: int = -1  # of the texts, when all of them had been asked
    asked: dict[int, str] = field(default_factory=dict)  # by item key
    newcomers: Newcomers | None = None
    failure: str = ""


class NewcomerWatch:
    """Keeps the newcomers of every version in use, and asks a new version anew."""

    def __init__(
        self, texts: NewTexts, towers: Towers, in_use: Callable[[], Sequence[str]]
    ) -> None:
        self._texts = texts
        self._towers = towers
        self._in_use = in_use
        self._versions: dict[str, _Version] = {}
        self._read: dict[int, tuple[str, NDArray[np.float32]]] = {}  # key: text, and its vector

    def of(self, version: str) -> Newcomers | None:
        """The items to be scored beside those that *version* ranks; None if there are none."""
        known = self._versions.get(version)
        return known.newcomers if known else None

    async def keep(self) -> None:
        """Follow texts and versions until cancelled. A Triton that is away is asked again."""
        pause_s = 0.0
        while True:
            await asyncio.sleep(pause_s)
            pause_s = await self.catch_up()

    async def catch_up(self) -> float:
        """Do a little of what there is to do; how many seconds to wait before the next time."""
        self._versions = {one: self._versions.get(one, _Version()) for one in self._in_use()}
        pause_s = PAUSE_S
        for name, version in self._versions.items():
            try:
                if await self._ask(name, version):
                    pause_s = 0.0
            except RankerUnavailable as error:
                self._say(name, version, str(error))
                return PAUSE_AFTER_FAILURE_S
            self._say(name, version, "")
        return pause_s

    async def _ask(self, name: str, version: _Version) -> bool:
        """
        Ask about the newest texts that have not been asked about; whether more are left.

        A few at a time, so that what has just arrived comes before what is still to be done.
        """
        revision = self._texts.revision
        if revision == version.revision:
            return False
        texts = self._texts.newest_first()
        self._forget(version, texts)
        pending = [key for key, text in texts.items() if version.asked.get(key) != text]
        if pending:
            some = pending[:CHECKED_AT_ONCE]
            known = (await self._towers.knows(name, np.array(some, np.int64))).tolist()
            new = [key for key, is_known in zip(some, known, strict=True) if not is_known]
            few = new[:READ_AT_ONCE]
            if few:
                await self._score(name, version, {key: texts[key] for key in few})
            later = set(new[READ_AT_ONCE:])
            version.asked |= {key: texts[key] for key in some if key not in later}
            if later or len(some) < len(pending):
                return True
            log.info("newcomers_followed", version=name, items=_count(version.newcomers))
        version.revision = revision
        return False

    async def _score(self, name: str, version: _Version, texts: Mapping[int, str]) -> None:
        unread = {key: text for key, text in texts.items() if self._unread(key, text)}
        if unread:
            vectors = await self._towers.read(list(unread.values()))
            self._read |= {
                key: (text, vector)
                for (key, text), vector in zip(unread.items(), vectors, strict=True)
            }
        keys = np.array(list(texts), np.int64)
        read = np.stack([self._read[key][1] for key in texts])
        vectors = await self._towers.vectors(name, keys, read)
        version.newcomers = _with(version.newcomers, keys, vectors)

    def _unread(self, key: int, text: str) -> bool:
        return key not in self._read or self._read[key][0] != text

    def _forget(self, version: _Version, texts: Mapping[int, str]) -> None:
        for kept in (version.asked, self._read):
            for key in [key for key in kept if key not in texts]:
                del kept[key]
        if version.newcomers is not None:
            still = np.isin(version.newcomers.item_keys, list(texts))
            version.newcomers = version.newcomers.only(still)

    def _say(self, name: str, version: _Version, failure: str) -> None:
        if failure and failure != version.failure:  # once, not at each try
            log.warning("newcomers_not_followed", version=name, reason=failure)
        version.failure = failure


class RankerWithNewcomers:
    """`stream.ranking.Ranker`: what a ranker answers, and the newcomers in their places."""

    def __init__(self, ranker: Ranker, watch: NewcomerWatch) -> None:
        self._ranker = ranker
        self._watch = watch

    async def rank(
        self, inputs: Sequence[RankerInput], *, version: str, deadline_s: float
    ) -> Ranked:
        """Rank all that *version* knows, and all that it does not. Raises as the ranker does."""
        ranked = await self._ranker.rank(inputs, version=version, deadline_s=deadline_s)
        newcomers = self._watch.of(version)
        return with_newcomers(ranked, newcomers) if newcomers else ranked


def _with(
    newcomers: Newcomers | None, keys: NDArray[np.int64], vectors: NDArray[np.float32]
) -> Newcomers:
    """*newcomers* and those of *keys* ``(N,)``, whose *vectors* ``(N, D)`` replace older ones."""
    if newcomers is None:
        return Newcomers(keys, vectors)
    others = newcomers.only(~np.isin(newcomers.item_keys, keys))
    return Newcomers(
        np.concatenate([others.item_keys, keys]), np.concatenate([others.vectors, vectors])
    )


def _count(newcomers: Newcomers | None) -> int:
    return 0 if newcomers is None else len(newcomers.item_keys)
