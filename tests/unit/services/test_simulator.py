"""The simulated shop: the same for the same seed, and like a shop."""

import json
from collections import Counter, defaultdict
from typing import Any

import pytest

from services.simulator.catalogue import DAY_MS, as_record
from services.simulator.history import past_events
from services.simulator.live import LiveShoppers
from services.simulator.world import World
from stream.event_types import BY_NAME
from stream.events import parse_event
from stream.items import parse_item

END_MS = 20_000 * DAY_MS


def a_world(seed: int = 7) -> World:
    return World(seed, items=500, start_ms=END_MS - 14 * DAY_MS, end_ms=END_MS)


@pytest.fixture(scope="module")
def past() -> list[dict[str, Any]]:
    return [json.loads(line) for line in past_events(a_world(), 300)]


def test_the_same_seed_gives_the_same_bytes() -> None:
    """Else no demo, test or report could be repeated."""
    first, second, other = (list(past_events(a_world(seed), 20)) for seed in (7, 7, 8))

    assert first == second
    assert first != other


def test_every_event_and_item_keeps_the_contract() -> None:
    """The simulator is a producer like any other."""
    world = a_world()
    for item in world.items:
        parse_item(json.dumps(as_record(item, world.types)).encode())
    for raw in past_events(world, 50):
        parse_event(raw, kafka_timestamp_ms=END_MS, max_ahead_ms=0)


def test_titles_are_unique_and_say_what_the_item_is() -> None:
    """People look at them in the demo."""
    world = a_world()

    assert len({item.title for item in world.items}) == 500
    assert len({(kind.department, kind.category) for kind in world.types}) == 50


def test_every_kind_of_event_happens_in_order_of_time(past: list[dict[str, Any]]) -> None:
    """Each kind takes another way through the system."""
    times = [event["event_timestamp"] for event in past]

    assert {event["event_type"] for event in past} == set(BY_NAME)
    assert times == sorted(times)
    assert len({event["event_id"] for event in past}) == len(past)


def test_the_funnel_narrows(past: list[dict[str, Any]]) -> None:
    """More looking than buying, and nothing bought that was not in the cart before."""
    count = Counter(event["event_type"] for event in past)
    carted: dict[str, set[str]] = defaultdict(set)
    for event in past:
        if event["event_type"] == "add_to_cart":
            carted[event["session_id"]].add(event["item_id"])
        if event["event_type"] == "purchase":
            assert event["item_id"] in carted[event["session_id"]]
            assert event["order_id"]

    assert count["view"] > 3 * count["add_to_cart"] > 3 * count["purchase"] > 0


def test_taste_and_popularity_show_in_the_log(past: list[dict[str, Any]]) -> None:
    """A shopper looks at few of fifty product types; a tenth of the items gets many looks."""
    world = a_world()
    types: dict[str, Counter[int]] = defaultdict(Counter)
    looks: Counter[str] = Counter()
    for event in past:
        if event["event_type"] == "view":
            item = world.item(event["item_id"])
            assert item is not None
            types[event["user_id"]][item.type_index] += 1
            looks[event["item_id"]] += 1
    busy = [count for count in types.values() if count.total() >= 20]
    own_share = sum(sum(n for _, n in c.most_common(6)) for c in busy) / sum(
        c.total() for c in busy
    )
    top_share = sum(n for _, n in looks.most_common(50)) / looks.total()

    assert own_share > 0.55
    assert 0.25 < top_share < 0.8


def live_events(seconds: float, **options: Any) -> list[dict[str, Any]]:
    shoppers = LiveShoppers(a_world(), 100, run="test", start_s=END_MS / 1000, **options)
    events = []
    for tick in range(int(seconds * 100)):
        while (event := shoppers.take(END_MS / 1000 + tick / 100)) is not None:
            events.append(event)
    return events


def test_live_shoppers_keep_about_the_rate() -> None:
    """The demo promises a number of events a second."""
    events = live_events(60, rate=20)

    assert 20 * 60 * 0.7 < len(events) < 20 * 60 * 1.4
    assert len({event["event_id"] for event in events}) == len(events)


def test_a_live_shopper_may_take_what_is_recommended() -> None:
    """The loop closes: the click names the slate that it came from."""
    world = a_world()
    pushed = [item.item_id for item in world.items[:10]]
    events = live_events(60, rate=10, slate_of=lambda user_id: ("r-1", pushed))

    taken = [event for event in events if event.get("recommendation_id") == "r-1"]
    assert taken
    assert {event["item_id"] for event in taken} <= set(pushed)


def test_the_guest_is_always_there() -> None:
    """The demo shows one shopper's list change; it cannot wait for somebody to come by."""
    events = live_events(60, rate=5, guest=42, guest_gap_s=2.0)

    guest = [event for event in events if event["user_id"] == "u000042"]
    assert len(guest) > 15
