"""Following what is new, for each version that is in use."""

from collections.abc import Sequence

import numpy as np
import pytest

from services.worker import newcomers
from services.worker.newcomers import NewcomerWatch, NewTexts, RankerWithNewcomers
from stream.keys import item_key
from stream.ranking import Ranked, RankerUnavailable
from tests.builders import an_item


class FakeTowers:
    """Each version knows some items; a text's vector is its length."""

    def __init__(self, **known: Sequence[str]) -> None:
        self.known = {version[1:]: [item_key(i) for i in ids] for version, ids in known.items()}
        self.read_texts: list[str] = []

    async def knows(self, version, keys):
        if version not in self.known:
            raise RankerUnavailable("refused: no such model")
        return np.isin(keys, self.known[version])

    async def read(self, texts):
        self.read_texts += texts
        return np.array([[len(text), 1] for text in texts], np.float32)

    async def vectors(self, version, keys, texts):
        return texts * int(version)


def texts_of(*item_ids: str, most: int = 100) -> NewTexts:
    texts = NewTexts(most)
    for item_id in item_ids:
        texts.put(an_item(item_id))
    return texts


async def settle(watch: NewcomerWatch) -> None:
    while await watch.catch_up() == 0:
        pass


def keys_of(watch: NewcomerWatch, version: str) -> set[int]:
    found = watch.of(version)
    return set() if found is None else set(found.item_keys.tolist())


async def test_what_a_version_does_not_know_is_a_newcomer():
    """What it knows it ranks itself."""
    watch = NewcomerWatch(texts_of("hat", "shoes"), FakeTowers(v1=["hat"]), lambda: ("1",))

    await settle(watch)

    assert keys_of(watch, "1") == {item_key("shoes")}
    assert watch.of("1").vectors.tolist() == [[len("The shoes"), 1]]


async def test_an_item_that_arrives_later_is_followed():
    """That is what this is for."""
    texts, towers = texts_of("hat"), FakeTowers(v1=["hat"])
    watch = NewcomerWatch(texts, towers, lambda: ("1",))
    await settle(watch)

    texts.put(an_item("scarf"))
    await settle(watch)

    assert keys_of(watch, "1") == {item_key("scarf")}
    assert towers.read_texts == ["The scarf"]


async def test_a_new_version_is_asked_anew_and_texts_are_read_once():
    """It may know what the one before did not, and its vectors are others."""
    in_use = ["1"]
    towers = FakeTowers(v1=[], v2=["hat"])
    watch = NewcomerWatch(texts_of("hat", "shoes"), towers, lambda: in_use)
    await settle(watch)

    in_use[:] = ["2"]
    await settle(watch)

    assert keys_of(watch, "2") == {item_key("shoes")}
    assert watch.of("2").vectors.tolist() == [[2 * len("The shoes"), 2]]
    assert watch.of("1") is None
    assert sorted(towers.read_texts) == ["The hat", "The shoes"]


async def test_deleted_and_evicted_items_are_forgotten():
    """Memory stays bounded, and nobody scores what is gone."""
    texts = texts_of("hat", "shoes", "scarf", most=2)
    watch = NewcomerWatch(texts, FakeTowers(v1=[]), lambda: ("1",))
    await settle(watch)
    assert keys_of(watch, "1") == {item_key("shoes"), item_key("scarf")}

    texts.delete("scarf")
    await settle(watch)

    assert keys_of(watch, "1") == {item_key("shoes")}


async def test_a_changed_title_is_read_again():
    """The vector belongs to the text."""
    texts, towers = texts_of("hat"), FakeTowers(v1=[])
    watch = NewcomerWatch(texts, towers, lambda: ("1",))
    await settle(watch)

    texts.put(an_item("hat").model_copy(update={"title": "A better hat"}))
    await settle(watch)

    assert watch.of("1").vectors.tolist() == [[len("A better hat"), 1]]


async def test_a_version_without_a_tower_is_asked_again_later():
    """Models of other people have none, and Triton may be starting."""
    towers = FakeTowers()
    watch = NewcomerWatch(texts_of("hat"), towers, lambda: ("1",))
    assert await watch.catch_up() == newcomers.PAUSE_AFTER_FAILURE_S
    assert watch.of("1") is None

    towers.known["1"] = []
    await settle(watch)

    assert keys_of(watch, "1") == {item_key("hat")}


@pytest.mark.parametrize("items", [0, 1, 70])
async def test_many_are_done_in_small_steps_the_newest_first(items: int):
    """A catalogue's first reading takes a while; what has just arrived must not wait for it."""
    texts = texts_of(*(f"item-{number}" for number in range(items)))
    towers = FakeTowers(v1=[])
    watch = NewcomerWatch(texts, towers, lambda: ("1",))

    await watch.catch_up()

    assert (
        towers.read_texts
        == [f"The item-{number}" for number in range(items - 1, -1, -1)][: newcomers.READ_AT_ONCE]
    )
    await settle(watch)
    assert len(keys_of(watch, "1")) == items


async def test_the_ranker_answers_with_newcomers_in_their_places():
    """Whoever asks need not know of them."""

    class FakeRanker:
        async def rank(self, inputs, *, version, deadline_s):
            scores = np.array([[2, 1]], np.float32)
            return Ranked(np.array([[1, 2]]), scores, np.array([[0, 1.5]], np.float32))

    watch = NewcomerWatch(texts_of("hat"), FakeTowers(v1=[]), lambda: ("1",))
    await settle(watch)

    answer = await RankerWithNewcomers(FakeRanker(), watch).rank([], version="1", deadline_s=1)

    assert answer.item_keys.tolist() == [[1, item_key("hat")]]
